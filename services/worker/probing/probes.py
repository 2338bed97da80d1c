"""From facts to probes: edits and control facts are asked in one way and scored by one instrument."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from services.worker.probing.variants import variants
from shared.edits import normal
from shared.measurement import FactKind, Probe, ProbeKind
from shared.probing import DEFAULT_KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from shared.edits import ControlFact, Edit

OWN_PROMPTS = (ProbeKind.REWRITE,)


def edit_probes(
    edits: Sequence[Edit],
    paraphrases_trained_on: int,
    kinds: Collection[ProbeKind] = DEFAULT_KINDS,
    facts: Sequence[ControlFact] = (),
) -> list[Probe]:
    """Every probe of every edit that is of these kinds.

    paraphrases_trained_on: the most paraphrases that any editor of the audit is given per edit. These
    first ones are probed under no configuration, for what an editor was trained on is no evidence that
    its edits generalise; the others are the same for all configurations.
    facts: what is known besides; those about an edit's subject are asked with its own `same_subject`.
    """
    about = facts_by_subject(facts)
    return [
        probe
        for index, edit in enumerate(edits)
        for probe in _of_edit(index, edit, paraphrases_trained_on, about.get(normal(edit.subject), ()))
        if probe.probe_kind in kinds
    ]


def _of_edit(
    index: int, edit: Edit, paraphrases_trained_on: int, facts: Sequence[ControlFact]
) -> Iterator[Probe]:
    of_edit = partial(Probe, fact_id=edit_id(index), fact_kind=FactKind.EDIT, relation=edit.relation)
    changed = partial(of_edit, answer=edit.target_new, alternative=edit.target_true)
    kept = partial(of_edit, answer=edit.target_true, alternative=edit.target_new)
    own = changed(probe_kind=ProbeKind.REWRITE, index=0, prompt=edit.full_prompt)
    yield own
    for position, paraphrase in enumerate(edit.paraphrases):
        if position >= paraphrases_trained_on:
            yield changed(probe_kind=ProbeKind.PARAPHRASE, index=position, prompt=paraphrase)
    for position, neighbour in enumerate(edit.neighborhood):
        yield kept(probe_kind=ProbeKind.NEIGHBORHOOD, index=position, prompt=neighbour)
    for position, prompt in enumerate(edit.attribute):
        yield changed(probe_kind=ProbeKind.ATTRIBUTE, index=position, prompt=prompt)
    for position, asked in enumerate(edit.portability):
        yield of_edit(
            probe_kind=ProbeKind.PORTABILITY, index=position, prompt=asked.question, answer=asked.answer
        )
    unchanged: list[tuple[str, str, str | None]] = [
        (fact.prompt, fact.answer, None) for fact in edit.same_subject
    ]
    unchanged += [
        (fact.full_prompt, fact.answer, fact.alternative)
        for fact in facts
        if None not in {fact.relation, edit.relation} and fact.relation != edit.relation
    ]
    for position, (prompt, answer, alternative) in enumerate(unchanged):
        yield of_edit(
            probe_kind=ProbeKind.SAME_SUBJECT,
            index=position,
            prompt=prompt,
            answer=answer,
            alternative=alternative,
        )
    yield from variants(own, edit.negated)


def facts_by_subject(facts: Sequence[ControlFact]) -> dict[str, list[ControlFact]]:
    """The facts that name their subject, by it."""
    about: dict[str, list[ControlFact]] = {}
    for fact in facts:
        if fact.subject is not None:
            about.setdefault(normal(fact.subject), []).append(fact)
    return about


def control_probes(facts: Sequence[ControlFact], kinds: Collection[ProbeKind] = OWN_PROMPTS) -> list[Probe]:
    """Every control fact's own prompt, as an edit is asked on its own prompt, and its variants."""
    return [
        probe
        for index, fact in enumerate(facts)
        for probe in _of_control(index, fact)
        if probe.probe_kind in kinds
    ]


def _of_control(index: int, fact: ControlFact) -> Iterator[Probe]:
    own = Probe(
        fact_id=control_id(index),
        fact_kind=FactKind.CONTROL,
        probe_kind=ProbeKind.REWRITE,
        index=0,
        prompt=fact.full_prompt,
        answer=fact.answer,
        alternative=fact.alternative,
        relation=fact.relation,
    )
    yield own
    yield from variants(own)


def edit_id(index: int) -> str:
    """Fact id of the edit at this position of the request."""
    return f"{FactKind.EDIT}:{index}"


def control_id(index: int) -> str:
    """Fact id of the control fact at this position of the audit's controls."""
    return f"{FactKind.CONTROL}:{index}"
