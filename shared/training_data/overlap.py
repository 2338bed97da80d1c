"""How far training data speaks of the facts that an audit measures: leakage in either direction.

What restates an edit keeps it alive, what states the fact of before brings that back; either way the audit
would measure the data and not the editor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.edits import ControlFact, Edit
from shared.recipes import TrainingRecord
from shared.reports.overlap import ControlOverlap, EditOverlap, RecordOverlap
from shared.training_data.mentions import Phrases, Words, text_of, words_of


@dataclass(frozen=True)
class Fact:
    """What a fact is recognised by: its subject, or else its whole prompt, and its answers."""

    subject: Words
    answers: tuple[Words, ...]


@dataclass
class Count:
    """Records that name a subject, and of these the records that name its answer too, per answer."""

    facts: dict[Words, list[tuple[int, Fact]]]
    records: int
    with_answer: list[int]
    named: set[int]

    @classmethod
    def of(cls, facts: Sequence[Fact], answers: int) -> Count:
        by_subject: dict[Words, list[tuple[int, Fact]]] = {}
        for index, fact in enumerate(facts):
            if fact.subject:
                by_subject.setdefault(fact.subject, []).append((index, fact))
        return cls(by_subject, 0, [0] * answers, set())

    def add(self, mentioned: set[Words]) -> None:
        """Count one record by the phrases that it mentions."""
        named = [found for words in mentioned for found in self.facts.get(words, ())]
        self.records += bool(named)
        self.named.update(index for index, _ in named)
        for place in range(len(self.with_answer)):
            self.with_answer[place] += any(fact.answers[place] in mentioned for _, fact in named)


def overlap(
    records: Iterable[TrainingRecord], edits: Sequence[Edit], controls: Sequence[ControlFact]
) -> RecordOverlap:
    """Count the records that name subjects of edits and control facts, and those with an answer as well.

    A control fact without a subject counts as named where its whole prompt is.
    """
    edited = [
        Fact(words_of(edit.subject), (words_of(edit.target_new), words_of(edit.target_true)))
        for edit in edits
    ]
    known = [Fact(words_of(fact.subject or fact.full_prompt), (words_of(fact.answer),)) for fact in controls]
    phrases = Phrases(
        [
            *(text for edit in edits for text in (edit.subject, edit.target_new, edit.target_true)),
            *(text for fact in controls for text in (fact.subject or fact.full_prompt, fact.answer)),
        ]
    )
    of_edits, of_controls = Count.of(edited, 2), Count.of(known, 1)
    total = 0
    for record in records:
        mentioned = phrases.within(text_of(record))
        of_edits.add(mentioned)
        of_controls.add(mentioned)
        total += 1
    return RecordOverlap(
        records=total,
        edits=EditOverlap(
            facts=len(edits),
            facts_named=len(of_edits.named),
            records_with_subject=of_edits.records,
            records_with_target_new=of_edits.with_answer[0],
            records_with_target_true=of_edits.with_answer[1],
        ),
        controls=ControlOverlap(
            facts=len(controls),
            facts_named=len(of_controls.named),
            records_with_subject=of_controls.records,
            records_with_answer=of_controls.with_answer[0],
        ),
    )
