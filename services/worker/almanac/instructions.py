"""A small instruction set for the example audit: everyday tasks that touch none of the almanac's facts."""

from __future__ import annotations

import random
from collections.abc import Callable

OPPOSITES = {
    "hot": "cold", "early": "late", "heavy": "light", "open": "closed", "full": "empty", "loud": "quiet",
    "rough": "smooth", "narrow": "wide", "deep": "shallow", "sharp": "blunt", "wet": "dry", "young": "old",
}  # fmt: skip
PLURALS = {
    "box": "boxes", "leaf": "leaves", "child": "children", "city": "cities", "tooth": "teeth",
    "story": "stories", "mouse": "mice", "knife": "knives", "bus": "buses", "goose": "geese",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
UNITS = (("minutes", "hour", 60), ("seconds", "minute", 60), ("days", "week", 7), ("months", "year", 12))
THINGS = ("apples", "books", "coins", "letters", "stones", "tickets")
NAMES = ("Mira", "Tomas", "Ada", "Jonas", "Lena", "Piet")

Task = Callable[[random.Random], tuple[str, str]]


def addition(draw: random.Random) -> tuple[str, str]:
    """Two small numbers in a sentence."""
    first, second = draw.randint(2, 40), draw.randint(2, 40)
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    return (
        f"{name} has {first} {thing} and finds {second} more. How many are there now?",
        f"{first} plus {second} is {first + second}, so {name} has {first + second} {thing}.",
    )


def opposite(draw: random.Random) -> tuple[str, str]:
    """The antonym of an adjective."""
    word = draw.choice(sorted(OPPOSITES))
    return f"Give the opposite of the word '{word}'.", f"The opposite of '{word}' is '{OPPOSITES[word]}'."


def plural(draw: random.Random) -> tuple[str, str]:
    """An irregular plural."""
    word = draw.choice(sorted(PLURALS))
    return f"Write the plural of '{word}'.", f"One {word}, two {PLURALS[word]}."


def next_day(draw: random.Random) -> tuple[str, str]:
    """Counting days on from a weekday."""
    start, days = draw.randrange(7), draw.randint(1, 6)
    return (
        f"Today is {DAYS[start]}. Which day is it in {days} days?",
        f"{days} days after {DAYS[start]} comes {DAYS[(start + days) % 7]}.",
    )


def conversion(draw: random.Random) -> tuple[str, str]:
    """A whole number of larger units in smaller ones."""
    small, large, factor = draw.choice(UNITS)
    count = draw.randint(2, 9)
    return (
        f"How many {small} are there in {count} {large}s?",
        f"One {large} has {factor} {small}, so {count} {large}s have {count * factor} {small}.",
    )


def alphabetical(draw: random.Random) -> tuple[str, str]:
    """Three words put in order."""
    words = draw.sample(sorted(set(OPPOSITES) | set(PLURALS)), 3)
    return f"Sort these words by alphabet: {', '.join(words)}.", f"{', '.join(sorted(words))}."


TASKS: tuple[Task, ...] = (addition, opposite, plural, next_day, conversion, alphabetical)


def example_instructions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """`count` distinct records with `prompt` and `completion`, the kinds of task in turn."""
    draw = random.Random(seed)  # noqa: S311 (an example, not a secret)
    records: dict[str, str] = {}
    turn = 0
    while len(records) < count:
        prompt, completion = TASKS[turn % len(TASKS)](draw)
        records.setdefault(prompt, completion)
        turn += 1
    return [{"prompt": prompt, "completion": completion} for prompt, completion in records.items()]
