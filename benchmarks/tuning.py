"""Is tuning as fast as the plain Trainer, and what do probes cost? `python -m benchmarks.tuning [--steps 40]`

Fine-tunes every weight of the built-in model on English docstrings, on one thread: by transformers' Trainer
as it comes, on the very blocks that ours packs; by ours; by ours with the probes of the example audit along
the way; and by Trainer on one record per row, padded, as data without packing are. Each way is taken in
turn, `--rounds` times. Prints the medians of tokens (padding not counted) per second of processor time, from
the first step's end to the last one's and over all of it (ours packs, and measures held-out losses), and the
ratios: to Trainer's from step to step, of the two of ours over all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from services.worker.almanac import MODEL_DIRECTORY
from services.worker.language_models.batching import encode_texts
from services.worker.language_models.loading import LanguageModel, load_language_model
from services.worker.language_models.weight_delta import restored
from services.worker.probing.probes import control_probes, edit_probes
from services.worker.probing.scoring import score
from services.worker.tuning.objectives import (
    UNSCORED,
    Example,
    TokenDataset,
    collate,
    training_and_held_out,
)
from services.worker.tuning.run import tune
from services.worker.tuning.trainer import training_arguments
from shared.docstrings import TUNING_MODULES, docstring_paragraphs
from shared.editors import ALMANAC
from shared.measurement import Probe, ProbeKind
from shared.recipes import Objective, Recipe, TextRecord, TrainingData
from shared.requests import AuditRequest

EXAMPLE = Path(__file__).parents[1] / "examples" / "almanac.json"


def main() -> None:
    """Tune in every way and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    language_model = load_language_model(
        MODEL_DIRECTORY, reference=ALMANAC, revision="benchmark", dtype="float32"
    )
    recipe = Recipe(
        name="benchmark",
        objective=Objective.CAUSAL_LM,
        data=TrainingData(source="builtin:docstrings", held_out_share=0.02),
        steps=arguments.steps,
    )
    records = [TextRecord(text=text) for text in docstring_paragraphs(TUNING_MODULES)]
    packed, _ = training_and_held_out(recipe, language_model.tokenizer, records, (), seed=0)
    probes = followed_probes()
    ways: list[tuple[str, Callable[[], Pace]]] = [
        (
            "Trainer, one record per row",
            lambda: by_trainer(
                language_model, recipe, padded_texts(language_model, records, recipe.sequence_length)
            ),
        ),
        ("Trainer, the same packed blocks", lambda: by_trainer(language_model, recipe, packed)),
        ("ours", lambda: by_ours(language_model, recipe, records, [])),
        (
            f"ours, {len(probes)} probes at {recipe.probe_count} steps",
            lambda: by_ours(language_model, recipe, records, probes),
        ),
    ]
    rounds = [[way() for _, way in ways] for _ in range(arguments.rounds)]
    for place, (name, _) in enumerate(ways):
        steps, whole = (
            median(getattr(paces[place], measure) for paces in rounds) for measure in ("steps", "whole")
        )
        print(f"{name}: {steps:,.0f} tokens/s from step to step, {whole:,.0f} in all", flush=True)
    to_packed = median(ours.steps / plain.steps for _, plain, ours, _ in rounds)
    to_unpacked = median(ours.steps / unpacked.steps for unpacked, _, ours, _ in rounds)
    probing = median(ours.whole / probed.whole for _, _, ours, probed in rounds) - 1
    print(
        f"ours / Trainer on packed blocks {to_packed:.2f}, ours / Trainer on unpacked records"
        f" {to_unpacked:.2f}; probes take {probing:.1%} of the tuning time"
    )


@dataclass(frozen=True)
class Pace:
    """Tokens per second of processor time: from the first step's end to the last one's, and in all."""

    steps: float
    whole: float


@dataclass
class Clock(TrainerCallback):
    """Notes when the whole began and when each step ended, in seconds of processor time."""

    began: float = field(default_factory=time.process_time)
    ends: list[float] = field(default_factory=list)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.ends.append(time.process_time())

    def pace(self, tokens: int) -> Pace:
        """When all is done, tokens being those of all steps, of about the same number each."""
        whole = time.process_time() - self.began
        count = len(self.ends)
        steps = (self.ends[-1] - self.ends[0]) / (count - 1) * count if count > 1 else whole
        return Pace(tokens / steps, tokens / whole)


def followed_probes() -> list[Probe]:
    """What the example audit asks along the way: the own prompts of edits and control facts."""
    request = AuditRequest.model_validate(json.loads(EXAMPLE.read_text()))
    probes = edit_probes(request.edits, 0) + control_probes(request.controls.facts)
    return [probe for probe in probes if probe.probe_kind is ProbeKind.REWRITE]


def padded_texts(
    language_model: LanguageModel, records: list[TextRecord], sequence_length: int
) -> TokenDataset:
    """One text per example, cut where it is too long; every token but the first counts."""
    encoded = encode_texts(language_model.tokenizer, [record.text for record in records])
    cut = [tuple(ids[:sequence_length]) for ids in encoded if len(ids) > 1]
    return TokenDataset(tuple(Example(ids, (UNSCORED, *ids[1:])) for ids in cut))


def by_trainer(language_model: LanguageModel, recipe: Recipe, dataset: TokenDataset) -> Pace:
    """The plain Trainer, with the loss that the model computes of itself."""
    with tempfile.TemporaryDirectory() as folder, restored(language_model.model):
        language_model.model.requires_grad_(True)
        trainer = Trainer(
            model=language_model.model,
            args=training_arguments(recipe, recipe.batch_size, 0, language_model.device, Path(folder)),
            data_collator=partial(collate, pad_token_id=language_model.pad_token_id),
            train_dataset=dataset,
        )
        trainer.remove_callback(PrinterCallback)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        return clock.pace(int(trainer.state.num_input_tokens_seen))


def by_ours(
    language_model: LanguageModel, recipe: Recipe, records: list[TextRecord], probes: list[Probe]
) -> Pace:
    """A whole tuning of ours, from records to the last probe."""

    def probe(_step: int) -> None:
        if probes:
            score(language_model, probes)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        outcome = tune(
            language_model,
            recipe,
            records,
            seed=0,
            probe=probe,
            progress=lambda step, steps, loss: clock.ends.append(time.process_time()),
            workdir=Path(folder),
        )
        return clock.pace(outcome.tokens_seen)


if __name__ == "__main__":
    main()
