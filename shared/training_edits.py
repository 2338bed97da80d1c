"""Which records an editor may be trained on: none that the audit measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.edits import ControlFact, Edit, normal

FEWEST_TRAINING_EDITS = 20


def unmeasured(
    records: Iterable[Edit],
    edits: Sequence[Edit],
    facts: Sequence[ControlFact] = (),
    unedited: Sequence[Edit] = (),
) -> list[Edit]:
    """The records about subjects that no edit and no control is about, and whose prompts none of them asks.

    facts, unedited: the request's controls; where it names no facts, the unedited records may be controls.
    """
    controls: Sequence[ControlFact | Edit] = facts or unedited
    subjects = {normal(measured.subject) for measured in (*edits, *controls) if measured.subject}
    prompts = {normal(fact.full_prompt) for fact in controls}
    for edit in edits:
        prompts |= {normal(prompt) for prompt in (*edit.paraphrases, *edit.neighborhood)}
    return [
        record
        for record in records
        if normal(record.subject) not in subjects and normal(record.full_prompt) not in prompts
    ]
