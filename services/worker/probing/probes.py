"""From facts to probes: edits and control facts are asked in one way and scored by one instrument."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shared.measurement import FactKind, Probe, ProbeKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.edits import ControlFact, Edit


def edit_probes(edits: Sequence[Edit], paraphrases_trained_on: int) -> list[Probe]:
    """Every probe of every edit: its own prompt, its paraphrases, its neighbourhood.

    paraphrases_trained_on: the most paraphrases that any editor of the audit is given per edit. These
    first ones are probed under no configuration, for what an editor was trained on is no evidence that
    its edits generalise; the others are the same for all configurations.
    """
    return [
        probe for index, edit in enumerate(edits) for probe in _of_edit(index, edit, paraphrases_trained_on)
    ]


def _of_edit(index: int, edit: Edit, paraphrases_trained_on: int) -> Iterator[Probe]:
    of_edit = partial(Probe, fact_id=edit_id(index), fact_kind=FactKind.EDIT, relation=edit.relation)
    changed = partial(of_edit, answer=edit.target_new, alternative=edit.target_true)
    kept = partial(of_edit, answer=edit.target_true, alternative=edit.target_new)
    yield changed(probe_kind=ProbeKind.REWRITE, index=0, prompt=edit.full_prompt)
    for position, paraphrase in enumerate(edit.paraphrases):
        if position >= paraphrases_trained_on:
            yield changed(probe_kind=ProbeKind.PARAPHRASE, index=position, prompt=paraphrase)
    for position, neighbour in enumerate(edit.neighborhood):
        yield kept(probe_kind=ProbeKind.NEIGHBORHOOD, index=position, prompt=neighbour)


def control_probes(facts: Sequence[ControlFact]) -> list[Probe]:
    """One probe per control fact: its own prompt, as an edit is asked on its own prompt."""
    return [
        Probe(
            fact_id=control_id(index),
            fact_kind=FactKind.CONTROL,
            probe_kind=ProbeKind.REWRITE,
            index=0,
            prompt=fact.full_prompt,
            answer=fact.answer,
            alternative=fact.alternative,
            relation=fact.relation,
        )
        for index, fact in enumerate(facts)
    ]


def edit_id(index: int) -> str:
    """Fact id of the edit at this position of the request."""
    return f"{FactKind.EDIT}:{index}"


def control_id(index: int) -> str:
    """Fact id of the control fact at this position of the audit's controls."""
    return f"{FactKind.CONTROL}:{index}"
