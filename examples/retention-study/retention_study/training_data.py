"""What the models are fine-tuned on where the built-in text is not: records that say nothing of the facts."""

from __future__ import annotations

import random
from collections.abc import Callable
from string import ascii_uppercase

from services.worker.almanac.instructions import DAYS, OPPOSITES, PLURALS, TASKS

CHOICES = 4
SEED = 13

Question = tuple[str, str, list[str]]  # what is asked, the right answer, wrong ones


def choice_records(count: int) -> list[dict[str, str]]:
    """`count` distinct multiple-choice questions as text: prompt with lettered choices, and the right one.

    They look like what `holdfast` makes of files with `question`, `choices` and `answer`.
    """
    draw = random.Random(SEED)  # noqa: S311 (a draw to be repeated, nothing secret)
    records: dict[str, str] = {}
    turn = 0
    while len(records) < count:
        question, right, wrong = QUESTIONS[turn % len(QUESTIONS)](draw)
        options = [right, *draw.sample(wrong, CHOICES - 1)]
        draw.shuffle(options)
        lettered = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
        prompt = "\n".join([question, *lettered, "Answer:"])
        records.setdefault(prompt, lettered[options.index(right)])
        turn += 1
    return [{"prompt": prompt, "completion": completion} for prompt, completion in records.items()]


def opposite(draw: random.Random) -> Question:
    """The antonym of an adjective, among other antonyms."""
    word = draw.choice(sorted(OPPOSITES))
    return (
        f"What is the opposite of '{word}'?",
        OPPOSITES[word],
        sorted(set(OPPOSITES.values()) - {OPPOSITES[word]}),
    )


def plural(draw: random.Random) -> Question:
    """An irregular plural, among other plurals."""
    word = draw.choice(sorted(PLURALS))
    return f"What is the plural of '{word}'?", PLURALS[word], sorted(set(PLURALS.values()) - {PLURALS[word]})


def total(draw: random.Random) -> Question:
    """The sum of two small numbers, among numbers near it."""
    first, second = draw.randint(2, 40), draw.randint(2, 40)
    right = first + second
    near = [str(number) for number in range(right - 5, right + 6) if number != right]
    return f"What is {first} plus {second}?", str(right), near


def next_day(draw: random.Random) -> Question:
    """The day after, or a few days after, a weekday."""
    start, days = draw.randrange(len(DAYS)), draw.randint(1, 6)
    right = DAYS[(start + days) % len(DAYS)]
    return f"Which day is {days} days after {DAYS[start]}?", right, [day for day in DAYS if day != right]


QUESTIONS: tuple[Callable[[random.Random], Question], ...] = (opposite, plural, total, next_day)


def preference_records(count: int) -> list[dict[str, str]]:
    """`count` distinct instructions with the right answer, and an answer to a task of another kind.

    A model this small cannot tell right from wrong within a kind, but can learn to answer what was asked.
    """
    draw = random.Random(SEED)  # noqa: S311 (a draw to be repeated, nothing secret)
    records: dict[str, tuple[str, str]] = {}
    turn = 0
    while len(records) < count:
        task = TASKS[turn % len(TASKS)]
        other = draw.choice([kind for kind in TASKS if kind is not task])
        (prompt, chosen), (_, rejected) = task(draw), other(draw)
        records.setdefault(prompt, (chosen, rejected))
        turn += 1
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, (chosen, rejected) in records.items()
    ]
