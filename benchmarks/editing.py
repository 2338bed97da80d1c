"""How much faster is editing in batches than the textbook loop? `python -m benchmarks.editing [--edits 100]`

Makes counterfactual edits of the built-in model by MEMIT and by ROME (each edit on the model's own
weights), once with `benchmarks.textbook` and once with ours, on one thread, and prints the seconds of both,
their ratio, and the largest relative difference of any target vector and of any weight change. Seconds are
those of the processor, which do not mind what else the machine is busy with.

With `--curve`, instead, the seconds and the memory that 1, 10, 100, 1,000 and 10,000 edits take, each number
in a process of its own; drawn into `--plot FILE` where one is named.

With `--memory`, instead, the memory that edits of a model take whose weights outweigh any batch: GPT-2
medium's shape, chance weights, two steps of each optimisation (how many there are makes no difference).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks import textbook
from services.worker.almanac import MODEL_DIRECTORY, load_facts
from services.worker.almanac.editability import Counterfactual, draw_counterfactuals
from services.worker.almanac.facts import answer_counts
from services.worker.analysis.drawing import panels
from services.worker.editing.catalogue import EDITORS, prepare_contexts, prepare_materials
from services.worker.editing.editor import EditingRun, Materials
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.loading import (
    LanguageModel,
    load_language_model,
    prepare_language_model,
)
from shared.editors import ALMANAC, CATALOGUE, Hyperparameters
from shared.edits import Edit

EDITORS_COMPARED = {"memit": textbook.memit, "rome": textbook.rome}
COUNTS = (1, 10, 100, 1_000, 10_000)
MIB = 2**20
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Case:
    """One editor with what it needs to edit the built-in model in float32."""

    editor: str
    language_model: LanguageModel
    settings: Hyperparameters
    materials: Materials

    @classmethod
    def prepare(cls, editor: str, cache: Path) -> Case:
        """cache: where key statistics are kept."""
        language_model = load_language_model(
            MODEL_DIRECTORY, reference=ALMANAC, revision="benchmark", dtype="float32"
        )
        settings = CATALOGUE[editor].settle(ALMANAC, {})
        return cls(
            editor, language_model, settings, prepare_materials(language_model, settings, seed=0, cache=cache)
        )

    @classmethod
    def of_medium_size(cls, editor: str) -> Case:
        """The built-in model's tokenizer and kind on the shape of GPT-2 medium; its keys are uncorrelated."""
        config = GPT2Config.from_pretrained(
            MODEL_DIRECTORY, local_files_only=True, n_layer=24, n_embd=1_024, n_head=16, n_inner=4_096
        )
        torch.manual_seed(0)
        language_model = prepare_language_model(
            GPT2LMHeadModel(config),
            AutoTokenizer.from_pretrained(MODEL_DIRECTORY, local_files_only=True),
            "medium",
            "benchmark",
        )
        settings = CATALOGUE[editor].settle("medium", {"v_num_grad_steps": 2})
        moments = {layer: torch.eye(4_096, dtype=torch.float64) for layer in settings.edited_layers(24)}
        contexts = prepare_contexts(language_model, settings, seed=0)
        return cls(editor, language_model, settings, Materials(KeyStatistics(moments, 1), contexts))


def main() -> None:
    """Compare or measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="the largest number of the curve")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--measure-medium", nargs=2, metavar=("EDITOR", "EDITS"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, metavar=("EDITOR", "EDITS", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        editor, edits, cache = arguments.measure
        print(json.dumps(measure(Case.prepare(editor, Path(cache)), many_edits(int(edits)))))
        return
    if arguments.measure_medium:
        editor, edits = arguments.measure_medium
        print(json.dumps(measure(Case.of_medium_size(editor), many_edits(int(edits)))))
        return
    if arguments.memory:
        for editor in EDITORS_COMPARED:
            print_measured(editor, 10, in_another_process("--measure-medium", editor, "10"))
        return
    with tempfile.TemporaryDirectory() as cache:
        if arguments.curve:
            curves = {editor: curve(editor, arguments.most, cache) for editor in EDITORS_COMPARED}
            if arguments.plot:
                plot(curves, arguments.plot)
        else:
            for editor in EDITORS_COMPARED:
                compare(Case.prepare(editor, Path(cache)), arguments.edits)


def compare(case: Case, count: int) -> None:
    """Make the same edits both ways and print what they took and how far they agree."""
    drawn = draw_counterfactuals(load_facts(), count, random.Random(0))  # noqa: S311 (to be repeated)
    edits = [counterfactual.edit() for counterfactual in drawn]
    trace = KeptTrace()
    ours = seconds(lambda: edit(case, edits, EditingRun(trace=trace)))
    found: list[textbook.TextbookOutcome] = []
    theirs = seconds(
        lambda: found.append(
            EDITORS_COMPARED[case.editor](case.language_model, edits, case.settings, case.materials)
        )
    )
    [expected] = found
    if case.editor == "memit":
        layers = case.settings.edited_layers(len(case.language_model.anatomy.blocks))
        targets = trace.tensors["z"]
        deltas = [trace.tensors[f"layer{layer}.delta"] for layer in layers]
    else:
        targets = torch.stack([trace.tensors[f"edit{index}.target"] for index in range(count)])
        deltas = [trace.tensors[f"edit{index}.delta"] for index in range(count)]
    print(
        f"{case.editor:6} {count:,} edits: textbook {theirs:.1f} s, ours {ours:.1f} s,"
        f" ratio {theirs / ours:.1f};"
        f" largest relative difference of z {difference(targets, expected.targets):.1e},"
        f" of weight changes {difference(deltas, expected.deltas):.1e}",
        flush=True,
    )


def edit(case: Case, edits: Sequence[Edit], run: EditingRun) -> None:
    """Make the edits our way."""
    EDITORS[case.editor].edit(case.language_model, edits, case.settings, case.materials, run)


def seconds(work: Callable[[], Any]) -> float:
    """Of the processor, that work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def difference(ours: Sequence[Tensor] | Tensor, theirs: Sequence[Tensor] | Tensor) -> float:
    """The largest ‖x − y‖ / ‖y‖ of any pair."""
    return max(
        float(torch.linalg.vector_norm(x.double() - y.double()) / torch.linalg.vector_norm(y.double()))
        for x, y in zip(ours, theirs, strict=True)
    )


def many_edits(count: int) -> list[Edit]:
    """Counterfactuals with prompts of their own; subjects come again once there are more edits than facts."""
    random_source = random.Random(0)  # noqa: S311 (to be repeated)
    facts = load_facts()
    asked = [(fact, prompt) for fact in facts for prompt in fact.trained_phrasings]
    objects = answer_counts(facts)
    edits = []
    for fact, prompt in random_source.sample(asked, count):
        others = [answer for answer in objects[fact.relation] if answer != fact.object]
        edits.append(Counterfactual(fact, prompt, random_source.choice(others)).edit())
    return edits


def curve(editor: str, most: int, cache: str) -> list[dict[str, float]]:
    """Measure every number of edits up to `most` and print a line for each."""
    Case.prepare(editor, Path(cache))  # fills the cache, so that no measured process has to
    measured = []
    for count in [count for count in COUNTS if count <= most]:
        found = in_another_process("--measure", editor, str(count), cache)
        measured.append({"edits": count, **found})
        print_measured(editor, count, found)
    return measured


def in_another_process(*arguments: str) -> dict[str, float]:
    """What a process of its own, with these arguments, measures."""
    command = [sys.executable, "-m", "benchmarks.editing", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def print_measured(editor: str, count: int, found: dict[str, float]) -> None:
    """A line about so many edits."""
    print(
        f"{editor:6} {count:>6,} edits: {found['seconds']:8.1f} s, {found['seconds'] / count:.3f} s each;"
        f" at most {found['memory']:,.0f} MiB, the model's weights taking {found['weights']:,.0f} MiB",
        flush=True,
    )


def measure(case: Case, edits: Sequence[Edit]) -> dict[str, float]:
    """Processor seconds, and the most memory that editing took beside what the process held before, in MiB.

    Two edits come first, so that what torch loads when it is first used is not counted.
    """
    edit(case, edits[:2], EditingRun())
    before = psutil.Process().memory_info().rss
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")  # forgets the most memory held so far
    spent = seconds(lambda: edit(case, edits, EditingRun()))
    most = most_memory_held()
    weights = sum(p.numel() * p.itemsize for p in case.language_model.model.parameters())
    return {"seconds": spent, "memory": (most - before) / MIB, "weights": weights / MIB}


def most_memory_held() -> int:
    """In bytes; on Linux since last forgotten, for its other count is inherited from the parent process."""
    if PROCESS.exists():
        fields = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)


def plot(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Seconds and memory against the number of edits, on logarithmic axes."""
    figure, (left, right) = panels(2, width=9, height=3.6)
    for editor, measured in curves.items():
        counts = [row["edits"] for row in measured]
        left.plot(counts, [row["seconds"] for row in measured], "-o", label=CATALOGUE[editor].title)
        right.plot(counts, [row["memory"] for row in measured], "-o", label=CATALOGUE[editor].title)
    for axes, label in ((left, "seconds on one thread"), (right, "most memory taken, MiB")):
        axes.set_xscale("log")
        axes.set_yscale("log" if axes is left else "linear")
        axes.set_xlabel("edits")
        axes.set_ylabel(label)
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
