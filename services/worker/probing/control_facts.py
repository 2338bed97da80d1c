"""Facts that the base model knows and nobody edits: what edits are compared with."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

from shared.edits import ControlFact
from shared.measurement import HEADLINE_MODE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shared.edits import Edit
    from shared.measurement import ProbeScore


def control_candidates(
    edits: Sequence[Edit], facts: Sequence[ControlFact] = (), unedited: Sequence[Edit] = ()
) -> list[ControlFact]:
    """Facts that could be controls, each prompt once, in a fixed order.

    facts: what the request names; if it names any, only these. Otherwise the edits' neighbourhood
    prompts and the `unedited` records, whose true answers they keep. A fact that asks an edit's prompt,
    is about an edit's subject, or so much as mentions one, is none.
    """
    offered = list(facts) or [*neighbourhood_facts(edits), *true_facts(unedited)]
    edited_prompts = {normal(prompt) for edit in edits for prompt in (edit.full_prompt, *edit.paraphrases)}
    subjects = {tuple(words(edit.subject)) for edit in edits}
    longest = max((len(subject) for subject in subjects), default=0)
    candidates: dict[str, ControlFact] = {}
    for fact in offered:
        prompt = normal(fact.full_prompt)
        mentioned = runs(words(f"{fact.full_prompt} | {fact.subject or ''}"), longest)
        if prompt not in edited_prompts and subjects.isdisjoint(mentioned):
            candidates.setdefault(prompt, fact)
    return list(candidates.values())


def neighbourhood_facts(edits: Sequence[Edit]) -> list[ControlFact]:
    """Every neighbourhood prompt of the edits as a fact of its own."""
    return [
        ControlFact(
            prompt=prompt, answer=edit.target_true, alternative=edit.target_new, relation=edit.relation
        )
        for edit in edits
        for prompt in edit.neighborhood
    ]


def true_facts(records: Sequence[Edit]) -> list[ControlFact]:
    """Records of an edit set that are not carried out, as the facts that they would have changed."""
    return [
        ControlFact(
            prompt=record.prompt,
            subject=record.subject,
            answer=record.target_true,
            alternative=record.target_new,
            relation=record.relation,
        )
        for record in records
    ]


def choose_controls(
    candidates: Sequence[ControlFact], base_scores: Sequence[ProbeScore], edits: Sequence[Edit], maximum: int
) -> list[ControlFact]:
    """At most `maximum` candidates that the base model answers right, mixed over relations like the edits.

    base_scores: one per candidate, in the headline mode. Which facts of a relation are taken is settled
    by a hash of their prompts, so that it depends neither on the order of the edits nor on chance.
    Returned in the order of the candidates.
    """
    by_relation: dict[str | None, list[int]] = {}
    for index, (fact, score) in enumerate(zip(candidates, base_scores, strict=True)):
        if score.right(HEADLINE_MODE):
            by_relation.setdefault(fact.relation, []).append(index)
    available = {relation: len(known) for relation, known in by_relation.items()}
    places = share_out(maximum, available, Counter(edit.relation for edit in edits))
    chosen = [
        index
        for relation, known in by_relation.items()
        for index in sorted(known, key=lambda index: digest(candidates[index].full_prompt))[
            : places[relation]
        ]
    ]
    return [candidates[index] for index in sorted(chosen)]


def share_out(
    places: int, available: Mapping[str | None, int], wanted: Mapping[str | None, int]
) -> dict[str | None, int]:
    """Give each relation places in proportion to `wanted`, no more than are available.

    Places that a relation cannot fill go to those that are furthest behind their share; relations that
    nobody wants get what is left in the end.
    """
    given = dict.fromkeys(available, 0)
    for _ in range(min(places, sum(available.values()))):
        behind = min(
            (relation for relation in available if given[relation] < available[relation]),
            key=lambda relation: (
                wanted.get(relation, 0) == 0,
                (given[relation] + 1) / max(1, wanted.get(relation, 0)),
                relation or "",
            ),
        )
        given[behind] += 1
    return given


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def runs(of_words: Sequence[str], longest: int) -> Iterable[tuple[str, ...]]:
    """Every run of at most `longest` neighbouring words."""
    for start in range(len(of_words)):
        for end in range(start + 1, min(start + longest, len(of_words)) + 1):
            yield tuple(of_words[start:end])


def normal(prompt: str) -> str:
    """The prompt without case and superfluous spaces."""
    return " ".join(prompt.casefold().split())


def digest(prompt: str) -> str:
    return sha256(prompt.encode()).hexdigest()
