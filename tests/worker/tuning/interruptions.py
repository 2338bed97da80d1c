"""Runs that are left at given steps and resumed from their checkpoints, and all that can be seen of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.errors import HandedOver
from services.worker.tuning.run import TuningOutcome
from shared.recipes import Recipe
from tests.worker.tuning.models import changed, run, weights_of


@dataclass
class Seen:
    """What a run showed, over all its attempts: the weights at its probes, its progress, its outcome."""

    probed: list[tuple[int, dict[str, torch.Tensor]]] = field(default_factory=list)
    progress: list[tuple[int, int, float | None]] = field(default_factory=list)
    outcome: TuningOutcome | None = None

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self.progress[-1][0] if self.progress else 0

    def tune(self, language_model: LanguageModel, chosen: Recipe, folder: Path, **settings: Any) -> None:
        """One attempt."""
        self.outcome = run(
            language_model,
            chosen,
            folder,
            probe=lambda step: self.probed.append((step, weights_of(language_model))),
            progress=lambda *reported: self.progress.append(reported),
            **settings,
        )

    def check_equal(self, other: Seen) -> None:
        """Fail unless everything is the same, to the last bit."""
        assert self.outcome == other.outcome
        assert self.progress == other.progress
        assert [step for step, _ in self.probed] == [step for step, _ in other.probed]
        for (_, mine), (_, others) in zip(self.probed, other.probed, strict=True):
            assert changed(mine, others) == set()


def uninterrupted(language_model: LanguageModel, chosen: Recipe, folder: Path, **settings: Any) -> Seen:
    seen = Seen()
    seen.tune(language_model, chosen, folder, **settings)
    return seen


def interrupted(
    language_model: LanguageModel, chosen: Recipe, folder: Path, at: Sequence[int], **settings: Any
) -> Seen:
    """Leave the run after each of these steps, and resume it every time."""
    seen, checkpoint = Seen(), None
    for step in at:
        path = leave(language_model, chosen, folder, step, seen, checkpoint, **settings)
        checkpoint = Checkpoint.read(path)
        torch.manual_seed(step)  # another process would start from another state of the generators
    seen.tune(language_model, chosen, folder, continuation=Continuation(resume=checkpoint), **settings)
    return seen


def copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def leave(
    language_model: LanguageModel,
    chosen: Recipe,
    folder: Path,
    step: int,
    seen: Seen | None = None,
    checkpoint: Checkpoint | None = None,
    notes: Callable[[], str] = str,
    **settings: Any,
) -> Path:
    """Run until after `step` and hand over there; gives the checkpoint's file."""
    shown = seen or Seen()
    path = folder / f"after-{step}.safetensors"
    continuation = Continuation(
        resume=checkpoint,
        asked_to_hand_over=lambda: shown.step == step,
        store=lambda file, _: copy(file, path),
        notes=notes,
    )
    with pytest.raises(HandedOver, match=f"after step {step}$"):
        shown.tune(language_model, chosen, folder, continuation=continuation, **settings)
    return path
