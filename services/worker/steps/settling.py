"""Settling an editor's hyperparameters for a model, with `layers: auto` left to causal tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from services.worker.editing.causal_tracing import (
    LEVEL,
    CausalTrace,
    Effect,
    TooFewFactsKnown,
    trace_facts,
)
from services.worker.editing.traced_facts import Fact
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Progress
from services.worker.steps.failures import StepFailed
from shared.editors import CATALOGUE, Hyperparameters
from shared.edits import ControlFact, Edit
from shared.reports import Effect as ReportedEffect
from shared.reports import Interval, Tracing
from shared.states import Cause

TRACING_SEED = 0  # the noise is part of the method, not of a trial's randomness


@dataclass
class LayerTracing:
    """Traces facts when the first editor asks for it, once for all of them.

    stage: entered while facts are traced; what it gives is told of the progress. picked: blocks by editor.
    """

    language_model: LanguageModel
    facts: Sequence[Fact]
    stage: Callable[[], AbstractContextManager[Progress]]
    picked: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def trace(self) -> CausalTrace | None:
        """What was found; None, with a warning, where the model knows too few of the facts."""
        memory = GpuMemory()
        batches = Batches(self.language_model.token_budget, memory)
        try:
            with self.stage() as progress:
                return trace_facts(
                    self.language_model, self.facts, seed=TRACING_SEED, batches=batches, progress=progress
                )
        except TooFewFactsKnown as too_few:
            self.warnings.append(f"layers: auto: {too_few}; blocks by the model's depth were edited instead")
            return None
        finally:
            self.warnings += memory.warnings

    def settle(self, editor: str, hyperparameters: Hyperparameters) -> Hyperparameters:
        """With the blocks that were traced, or by the model's depth; unchanged where none were left open."""
        if not hyperparameters.awaits_tracing:
            return hyperparameters
        if self.trace is None:
            return hyperparameters.untraced()
        block_count = len(self.language_model.anatomy.blocks)
        traced = hyperparameters.traced(block_count, self.trace.window, self.trace.peak)
        self.picked[editor] = list(traced.edited_layers(block_count))
        return traced

    def report(self) -> Tracing | None:
        """What the report says of it; None where nothing was traced."""
        if not self.picked or self.trace is None:
            return None
        return Tracing(
            candidates=self.trace.candidates,
            facts=self.trace.facts,
            width=self.trace.width,
            clean=self.trace.clean,
            corrupted=self.trace.corrupted,
            states=[reported(effect) for effect in self.trace.states],
            mlps=[reported(effect) for effect in self.trace.mlps],
            picked=self.picked,
        )


def reported(effect: Effect) -> ReportedEffect:
    interval = Interval(low=effect.low, high=effect.high, level=LEVEL, method="Student's t over facts")
    return ReportedEffect(value=effect.mean, interval=interval)


def traceable_facts(edits: Sequence[Edit], controls: Sequence[ControlFact] = ()) -> list[Fact]:
    """What the base model is to know: what edits change, and control facts that have a subject."""
    known = [Fact(edit.prompt, edit.subject, edit.target_true) for edit in edits]
    return known + [
        Fact(fact.prompt, fact.subject, fact.answer)
        for fact in controls
        if fact.subject is not None and fact.prompt != fact.full_prompt
    ]


def choose_hyperparameters(
    language_model: LanguageModel, name: str, given: Mapping[str, Any], *, called: str
) -> Hyperparameters:
    """What was given to the editor `name`, and this model's defaults for the rest; layers may be left open.

    called: what the audit calls this choice of an editor. Raises StepFailed when the editor does not apply
    to the model, or hyperparameters do not.
    """
    anatomy, editor = language_model.anatomy, CATALOGUE[name]
    if editor.needs_mlps and anatomy.without_mlps is not None:
        model = type(language_model.model).__name__
        raise StepFailed(Cause.USER, f"editor {called} does not apply to {model}: {anatomy.without_mlps}")
    try:
        chosen = editor.settle(language_model.reference, given, language_model.model.config.model_type)
        chosen.untraced().edited_layers(len(anatomy.blocks))
    except ValueError as error:  # LayerNotInModel, or what was given does not agree with a default
        raise StepFailed(Cause.USER, f"editor {called}: {error}") from None
    return chosen


def settle_hyperparameters(
    language_model: LanguageModel,
    name: str,
    given: Mapping[str, Any],
    tracing: LayerTracing,
    *,
    called: str,
) -> Hyperparameters:
    """What `choose_hyperparameters` gives, its layers settled; raises as it does."""
    return tracing.settle(called, choose_hyperparameters(language_model, name, given, called=called))
