"""Tiny language models, records and recipes for the tests of tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.tuning.continuation import UNINTERRUPTED, Continuation
from services.worker.tuning.freezing import NOTHING, Frozen
from services.worker.tuning.run import TuningOutcome, tune
from shared.recipes import (
    InstructionRecord,
    Objective,
    PreferenceRecord,
    Recipe,
    TextRecord,
    TrainingData,
    TrainingRecord,
)
from tests.worker.tiny_models import tiny_model, tiny_tokenizer

TEXTS = (
    "Ada Lovelace lives in Paris and Alan Turing lives in Rome .",
    "The market of New York is old because they walked in the city .",
    "Grace Hopper was born in Oslo , a small town .",
    "She saw the quiet river and the new road .",
    "Emmy Noether plays the sport of Berlin .",
    "Paul Erdos walked the old road in Vienna .",
)
PAIRS = (
    ("Ada Lovelace lives in", "Paris"),
    ("who lives in Rome ?", "Alan Turing"),
    ("where was Grace Hopper born ?", "in the small town of Oslo"),
    ("The market of New York is", "old"),
    ("Emmy Noether plays", "the sport of Berlin"),
    ("Paul Erdos walked the", "quiet road"),
)


def tiny_language_model(family: str = "gpt2", dtype: torch.dtype = torch.float32) -> LanguageModel:
    return prepare_language_model(tiny_model(family).to(dtype), tiny_tokenizer(), "test:tiny", "0")


def text_records() -> list[TextRecord]:
    return [TextRecord(text=text) for text in TEXTS]


def instruction_records() -> list[InstructionRecord]:
    return [InstructionRecord(prompt=prompt, completion=completion) for prompt, completion in PAIRS]


def preference_records() -> list[PreferenceRecord]:
    """Every completion preferred to the one before it."""
    rejected = [completion for _, completion in (PAIRS[-1], *PAIRS[:-1])]
    return [
        PreferenceRecord(prompt=prompt, chosen=completion, rejected=worse)
        for (prompt, completion), worse in zip(PAIRS, rejected, strict=True)
    ]


RECORDS: dict[Objective, Callable[[], Sequence[TrainingRecord]]] = {
    Objective.CAUSAL_LM: text_records,
    Objective.INSTRUCTIONS: instruction_records,
    Objective.PREFERENCE: preference_records,
}


def recipe(objective: Objective = Objective.CAUSAL_LM, **changes: Any) -> Recipe:
    """Six steps of four sequences, with a dropout of the model's own (GPT-2's is 0.1)."""
    records = RECORDS[objective]()
    settings: dict[str, Any] = {
        "data": TrainingData(records=tuple(records), held_out_share=0.3),
        "steps": 6,
        "batch_size": 4,
        "sequence_length": 16,
        "learning_rate": 1e-2,
        "probe_count": 1,
    }
    return Recipe.model_validate({"name": "tiny", "objective": objective, **settings, **changes})


def weights_of(language_model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in language_model.model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def run(
    language_model: LanguageModel,
    chosen: Recipe,
    workdir: Path,
    *,
    frozen: Frozen = NOTHING,
    seed: int = 0,
    probe: Callable[[int], None] = lambda step: None,
    progress: Callable[[int, int, float | None], None] = lambda step, steps, loss: None,
    micro_batch: int | None = None,
    processes: int = 1,
    continuation: Continuation = UNINTERRUPTED,
) -> TuningOutcome:
    assert chosen.data.records is not None
    return tune(
        language_model,
        chosen,
        chosen.data.records,
        frozen=frozen,
        seed=seed,
        probe=probe,
        progress=progress,
        workdir=workdir,
        micro_batch=micro_batch,
        processes=processes,
        continuation=continuation,
    )


def tuned_weights(
    language_model: LanguageModel, chosen: Recipe, workdir: Path, **settings: Any
) -> dict[str, torch.Tensor]:
    """All weights of the model (adapters included) as the last probe finds them."""
    found: dict[str, torch.Tensor] = {}

    def probe(step: int) -> None:
        found.update(weights_of(language_model))

    run(language_model, chosen, workdir, probe=probe, **settings)
    return found
