"""Finding many phrases in a text at once."""

from __future__ import annotations

import random

import pytest

from shared.training_data import mentions
from shared.training_data.mentions import Phrases, words_of


def test_phrases_are_those_found_by_looking_for_each() -> None:
    draw = random.Random(5)  # noqa: S311 (what is drawn is no secret)

    def drawn(most: int) -> tuple[str, ...]:
        return tuple(draw.choices("abc", k=draw.randint(1, most)))

    for _ in range(300):
        phrases = [drawn(5) for _ in range(8)]
        text = drawn(20)
        expected = {
            phrase
            for phrase in phrases
            if any(text[start : start + len(phrase)] == phrase for start in range(len(text)))
        }
        assert Phrases(map(" ".join, phrases)).within(", ".join(text)) == expected


def test_words_are_looked_up_about_once_however_long_the_phrases_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = 0

    class Word(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal looked_up
            looked_up += 1
            return super().__hash__()

    monkeypatch.setattr(mentions, "words_of", lambda text: tuple(map(Word, words_of(text))))
    lengths, many = range(1, 33), 2_000
    phrases = Phrases([" ".join(["a"] * length) for length in lengths] + ["a " * 100 + "b"])
    looked_up = 0
    assert len(phrases.within("a " * many)) == len(lengths)
    assert looked_up <= 4 * many + sum(lengths)
