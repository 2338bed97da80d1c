"""Which edits the stressor `further_edits` makes, and which facts they are meant to change."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from shared.edits import ControlFact, Edit, normal
from shared.stressors import FurtherEdits, Stressor


class NoFurtherEdits(ValueError):
    """What was given or can be made is not enough; `field` of the stressor is at fault, "" where none is."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def further_edits(
    stressor: FurtherEdits, edits: Sequence[Edit], unedited: Sequence[Edit], seed: int
) -> list[Edit]:
    """The edits to make, in order.

    edits: the first ones; unedited: the request's records that are not carried out; seed: of the draw.

    Raises:
        NoFurtherEdits: there are none, or fewer than were asked for, or one given is of another kind.
    """
    found = candidates(stressor, edits, unedited)
    count = len(found) if stressor.count is None else stressor.count
    if not found or len(found) < count:
        source = "given" if stressor.edits else "found in the request"
        raise NoFurtherEdits(
            "" if stressor.count is None else "count",
            f"{len(found)} {stressor.which.replace('_', ' ')} edits are {source}, {max(count, 1)} are needed",
        )
    if stressor.draws and count < len(found):
        chosen = random.Random(seed).sample(range(len(found)), count)  # noqa: S311 (a draw to be repeated)
        return [found[index] for index in sorted(chosen)]
    return found[:count]


def faults_of_further_edits(
    stressors: Sequence[Stressor], edits: Sequence[Edit], unedited: Sequence[Edit], seeds: Sequence[int]
) -> list[str]:
    """Why further edits cannot be made, each beginning with the dotted path of the field at fault."""
    found = []
    for index, stressor in enumerate(stressors):
        if isinstance(stressor, FurtherEdits):
            try:
                further_edits(stressor, edits, unedited, seeds[0])
            except NoFurtherEdits as error:
                where = ".".join(filter(None, ("stressors", str(index), error.field)))
                found.append(f"{where}: {error}")
    return found


@dataclass(frozen=True)
class FirstEdits:
    """What the first edits are about, all texts as `normal` writes them.

    targets: the new target of each complete prompt.
    """

    subjects: frozenset[str]
    targets: dict[str, str]

    @classmethod
    def of(cls, edits: Sequence[Edit]) -> Self:
        """Normalised once, since thousands of further edits may be held against them."""
        return cls(
            frozenset(normal(edit.subject) for edit in edits),
            {normal(edit.full_prompt): normal(edit.target_new) for edit in edits},
        )


def candidates(stressor: FurtherEdits, edits: Sequence[Edit], unedited: Sequence[Edit]) -> list[Edit]:
    """All that could be made; raises NoFurtherEdits for one that was given and is of another kind."""
    if not stressor.edits and stressor.which == "conflicting":
        return contradictions(edits)
    first = FirstEdits.of(edits)
    if not stressor.edits:
        return [edit for edit in unedited if qualifies(stressor.which, edit, first)]
    for index, edit in enumerate(stressor.edits):
        if not qualifies(stressor.which, edit, first):
            raise NoFurtherEdits(f"edits.{index}", WANTED[stressor.which])
    return list(stressor.edits)


WANTED = {
    "random": "is about a subject of the first edits",
    "same_subject": "has no subject of the first edits, or asks what one of them asks",
    "conflicting": "does not ask what one of the first edits asks, or wants the same answer",
}


def qualifies(which: str, further: Edit, first: FirstEdits) -> bool:
    """Whether an edit is of the kind that is asked for, given the first ones."""
    if which == "random":
        return normal(further.subject) not in first.subjects
    asked = normal(further.full_prompt)
    if which == "same_subject":
        return normal(further.subject) in first.subjects and asked not in first.targets
    return asked in first.targets and first.targets[asked] != normal(further.target_new)


def contradictions(edits: Sequence[Edit]) -> list[Edit]:
    """Of each edit, the same with the target of the next edit of its relation that is neither its new nor its
    true one; an edit without a relation looks among those of its prompt. Where there is none, it has none."""
    alike: dict[str, list[int]] = defaultdict(list)
    for index, edit in enumerate(edits):
        alike[edit.relation or edit.prompt].append(index)
    found: dict[int, str] = {}
    for group in alike.values():
        targets = [edits[index].target_new for index in group]
        for index, following in zip(reversed(group), following_targets(targets), strict=True):
            taken = {normal(edits[index].target_new), normal(edits[index].target_true)}
            target = next((text for key, text in following.items() if key not in taken), None)
            if target is not None:
                found[index] = target
    return [edits[index].model_copy(update={"target_new": found[index]}) for index in sorted(found)]


def following_targets(targets: Sequence[str]) -> Iterator[dict[str, str]]:
    """For each target from the last to the first, the three different ones that come next, the first of them
    first, by what `normal` makes of them; after the last comes the first again. Of any three, one is neither
    of two that are taken."""
    keys = [normal(target) for target in targets]
    following: dict[str, str] = {}
    for pass_over in (True, False):
        for key, target in zip(reversed(keys), reversed(targets), strict=True):
            if not pass_over:
                yield following
            others = [(other, text) for other, text in following.items() if other != key]
            following = dict([(key, target), *others[:2]])


def superseded(further: Sequence[Edit], edits: Sequence[Edit]) -> list[int]:
    """Indices of the first edits that further ones overwrite: same prompt, another target."""
    targets = {normal(edit.full_prompt): normal(edit.target_new) for edit in further}
    return [
        index
        for index, edit in enumerate(edits)
        if targets.get(normal(edit.full_prompt), normal(edit.target_new)) != normal(edit.target_new)
    ]


def changed_controls(further: Sequence[Edit], controls: Sequence[ControlFact]) -> list[int]:
    """Indices of the control facts that further edits may change: those that mention a subject of theirs."""
    by_first_word: dict[str, set[str]] = defaultdict(set)
    for subject in {worded(edit.subject) for edit in further}:
        by_first_word[subject.split(" ")[1]].add(subject)
    found = []
    for index, fact in enumerate(controls):
        text = worded(f"{fact.full_prompt} | {fact.subject or ''}")
        named = (subject for word in set(text.split()) for subject in by_first_word.get(word, ()))
        if any(subject in text for subject in named):
            found.append(index)
    return found


def worded(text: str) -> str:
    """The text's words between single spaces, without punctuation, so that whole words can be looked for."""
    return f" {' '.join(''.join(letter if letter.isalnum() else ' ' for letter in normal(text)).split())} "
