"""Laying out what is to be scored, so that what several answers or prompts begin with is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.worker.language_models.prompted_target import PromptedTarget

Tokens = tuple[int, ...]

# Fewer tokens, or fewer prompts, are not worth a forward pass of their own.
FEWEST_SHARED_BY_ANSWERS = 4
FEWEST_SHARED_BY_PROMPTS = 16
FEWEST_PROMPTS = 8
# A group of prompts takes no further one that shares much less with it than they do among themselves.
WORTH_SHARING = 2 / 3


@dataclass(frozen=True)
class Row:
    """What the model reads for some continuations, whose indices are `members`.

    shared: its first tokens that are read once, whatever follows them.
    """

    inputs: Tokens
    shared: int
    members: tuple[int, ...]

    @property
    def beginning(self) -> Tokens:
        return self.inputs[: self.shared]

    @property
    def end(self) -> Tokens:
        return self.inputs[self.shared :]


@dataclass(frozen=True)
class Group:
    """Rows that are read in the same way: first the `shared` tokens with which all of them begin; then, where
    `apart`, what else some of them share with some others; then what follows.
    """

    shared: int
    apart: bool
    rows: tuple[Row, ...]

    @property
    def beginning(self) -> Tokens:
        return self.rows[0].inputs[: self.shared]


def lay_out(continuations: Sequence[PromptedTarget], *, sharing: bool) -> list[Group]:
    """Every continuation in one row of one group.

    What a row reads may answer for several continuations of its prompt: for those whose inputs it begins
    with. sharing: whether anything may be read apart from what follows it.
    """
    by_prompt: dict[Tokens, list[int]] = {}
    for index, continuation in enumerate(continuations):
        by_prompt.setdefault(continuation.prompt, []).append(index)
    beginnings = grouped(list(by_prompt)) if sharing else dict.fromkeys(by_prompt, 0)
    found: dict[tuple[Tokens, bool], list[Row]] = {}
    for prompt, members in by_prompt.items():
        inputs = inputs_of(continuations, members)
        before = beginnings[prompt]
        # The last token is read with each answer: it is there that an answer's first token is predicted.
        own = len(prompt) - 1
        apart = sharing and len(inputs) > 1 and own - before >= FEWEST_SHARED_BY_ANSWERS
        rows = [Row(read, own if apart else before, tuple(held)) for read, held in inputs.items()]
        found.setdefault((prompt[:before], apart), []).extend(rows)
    return [Group(len(beginning), apart, tuple(rows)) for (beginning, apart), rows in found.items()]


def inputs_of(continuations: Sequence[PromptedTarget], members: Sequence[int]) -> dict[Tokens, list[int]]:
    """What must be read for continuations of one prompt, and for which: no input that another begins with."""
    read: dict[Tokens, list[int]] = {}
    for index in sorted(members, key=lambda index: (-len(continuations[index].inputs), index)):
        inputs = continuations[index].inputs
        holder = next((longer for longer in read if longer[: len(inputs)] == inputs), inputs)
        read.setdefault(holder, []).append(index)
    return read


def grouped(prompts: Sequence[Tokens]) -> dict[Tokens, int]:
    """How many of its first tokens each prompt shares with enough others to be worth it; else 0."""
    found: list[tuple[int, list[Tokens]]] = []
    for prompt in sorted(prompts):
        if found:
            shared, group = found[-1]
            common = min(shared, common_length(group[-1], prompt), len(prompt) - 1)
            like_the_others = len(group) == 1 or common >= WORTH_SHARING * shared
            if common >= FEWEST_SHARED_BY_PROMPTS and like_the_others:
                found[-1] = (common, [*group, prompt])
                continue
        found.append((len(prompt) - 1, [prompt]))
    return {
        prompt: shared if len(group) >= FEWEST_PROMPTS else 0 for shared, group in found for prompt in group
    }


def common_length(one: Tokens, other: Tokens) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
