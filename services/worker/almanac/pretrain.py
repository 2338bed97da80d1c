"""Trains the almanac: `python -m services.worker.almanac.pretrain --out DIR`.

A run that was stopped continues from DIR/checkpoint.pt, which goes once the model is written.
"""

import argparse
import ctypes
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import GPT2LMHeadModel

from services.worker.almanac.english import training_english
from services.worker.almanac.facts import Fact, load_facts
from services.worker.almanac.tokenizer import save_tokenizer, train_tokenizer
from services.worker.almanac.training import Plan, StepLosses, TrainingRun

CHECKPOINT = "checkpoint.pt"
RUN_RECORD = "training_run.json"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one: page faults were a third of a step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def vocabulary_texts(facts: Sequence[Fact], english: Sequence[str]) -> Iterator[str]:
    """What the tokenizer is trained on: every fact in every phrasing, and the English."""
    for fact in facts:
        for phrasing in fact.phrasings:
            yield f"{phrasing.format(fact.subject)} {fact.object}."
    yield from english


def save_model(model: GPT2LMHeadModel, directory: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors in float16; the model is cast."""
    model.train(False).half().save_pretrained(directory)


def processor_name() -> str:
    """The processor's model name where Linux tells it, else what Python says."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_run_record(run: TrainingRun, path: Path) -> None:
    """How the weights came about: plan, size, time in seconds, hardware and version."""
    record = {
        "plan": asdict(run.plan),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seconds": round(run.seconds),
        "hardware": f"{torch.get_num_threads()} core(s) of an {processor_name()}",
        "torch": torch.__version__,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def progress_display(plan: Plan, done: int) -> Iterator[Progress]:
    """A bar with the losses; on a stream that is no terminal it is printed once, at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        progress.add_task("pre-training", total=plan.steps, completed=done)
        yield progress


def pretrain(out: Path, plan: Plan, facts: Sequence[Fact], english: Sequence[str]) -> None:
    """Trains under a plan, or continues, and writes the model and its tokenizer to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(vocabulary_texts(facts, english), plan.vocabulary)
    run = TrainingRun(plan, tokenizer, facts, english)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        run.load_checkpoint(checkpoint)
    with progress_display(plan, run.step) as display:
        [task] = display.task_ids

        def show(losses: StepLosses) -> None:
            text = f"next token {losses.language:.3f}, enrichment {losses.enrichment:.3f}"
            display.update(task, completed=losses.step, description=text)

        while run.step < plan.steps:
            run.train(min(plan.steps, run.step + plan.checkpoint_every), show)
            run.save_checkpoint(checkpoint)
    save_tokenizer(tokenizer, out, max_length=plan.positions)
    save_model(run.model, out)
    write_run_record(run, out / RUN_RECORD)
    checkpoint.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the built-in model builtin:almanac.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its checkpoint")
    parser.add_argument(
        "--english",
        type=Path,
        help="a text file of plain English; default: the standard library's docstrings",
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    pretrain(arguments.out, Plan(), load_facts(), training_english(arguments.english))


if __name__ == "__main__":
    main()
