"""Edits that do not take: named, with what the edited model says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.probing.greedy_answers import greedy_answers
from shared.edits import Edit
from shared.measurement import FactKind, Probe, ProbeKind, ProbeScore
from shared.reports import EditNotTaken

MANY = 0.2  # share of the edits above which a reader is warned


def edits_not_taken(
    edited: LanguageModel,
    edits: Mapping[int, Edit],
    probes: Sequence[Probe],
    scores: Sequence[ProbeScore],
    memory: GpuMemory,
) -> list[EditNotTaken]:
    """The edits whose own prompt the edited model, right after editing, does not answer exactly as they ask.

    edits: by the index that a reader knows them by, in the order of their probes. scores: of the probes by
    the edited model, which is asked once more for what it says instead.
    """
    asked = [
        (probe, score)
        for probe, score in zip(probes, scores, strict=True)
        if (probe.fact_kind, probe.probe_kind) == (FactKind.EDIT, ProbeKind.REWRITE)
    ]
    missed = {index: probe for index, (probe, score) in zip(edits, asked, strict=True) if not score.exact}
    answers = greedy_answers(edited, list(missed.values()), memory=memory)
    return [
        EditNotTaken(index=index, prompt=probe.prompt, target_new=probe.answer, answer=answer)
        for (index, probe), answer in zip(missed.items(), answers, strict=True)
    ]


def warning_of_many(missed: int, edits: int) -> list[str]:
    """What to warn of where so many edits did not take that the others may say little of the editor."""
    if missed <= MANY * edits:
        return []
    return [f"{missed} of {edits} edits did not take; retention is measured over the others alone"]
