"""Which phrases a text mentions: whole words, whatever the case and what stands between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shared.edits import normal
from shared.recipes import ChatRecord, InstructionRecord, TextRecord, TrainingRecord

WORD = re.compile(r"[\w+#]+")  # C++ and C# are words of their own

Words = tuple[str, ...]


def words_of(text: str) -> Words:
    """The words of a text as `normal` writes them."""
    return tuple(WORD.findall(normal(text)))


class Phrases:
    """Phrases to look for, all in one pass: time grows with the text, however many and however long they are.

    The automaton of Aho and Corasick (1975, doi 10.1145/360825.360855) over words. A state is a beginning of
    some phrases; 0 is the empty one.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._longer: list[dict[str, int]] = [{}]  # of each state, the one that a word leads to
        self._ends: dict[int, Words] = {}  # states that are a whole phrase
        for words in {words for phrase in phrases if (words := words_of(phrase))}:
            self._ends[self._state_of(words)] = words
        # The longest state that a state ends in, other than itself, and the longest such that is a phrase.
        self._suffix = [0] * len(self._longer)
        self._phrase_in = [0] * len(self._longer)
        self._link()

    def within(self, text: str) -> set[Words]:
        """The phrases that a text mentions, as their words."""
        found: set[int] = set()
        state = 0
        for word in words_of(text):
            state = self._after(state, word)
            ending = state if state in self._ends else self._phrase_in[state]
            while ending and ending not in found:  # where it was found before, so were those within it
                found.add(ending)
                ending = self._phrase_in[ending]
        return {self._ends[ending] for ending in found}

    def occurrences(self, text: str) -> Iterator[Words]:
        """Every mention of a phrase in a text, as its words; those that overlap as well."""
        state = 0
        for word in words_of(text):
            state = self._after(state, word)
            ending = state if state in self._ends else self._phrase_in[state]
            while ending:
                yield self._ends[ending]
                ending = self._phrase_in[ending]

    def _state_of(self, words: Words) -> int:
        """The state of a phrase's words, which is made unless it is there."""
        state = 0
        for word in words:
            following = self._longer[state].setdefault(word, len(self._longer))
            if following == len(self._longer):
                self._longer.append({})
            state = following
        return state

    def _after(self, state: int, word: str) -> int:
        """The longest state that the words of `state` and then `word` end in."""
        while state and word not in self._longer[state]:
            state = self._suffix[state]
        return self._longer[state].get(word, 0)

    def _link(self) -> None:
        """Fill in the suffixes, shorter states first."""
        states = list(self._longer[0].values())
        for state in states:  # grows as it is gone through
            for word, following in self._longer[state].items():
                suffix = self._after(self._suffix[state], word)
                self._suffix[following] = suffix
                self._phrase_in[following] = suffix if suffix in self._ends else self._phrase_in[suffix]
                states.append(following)


def text_of(record: TrainingRecord) -> str:
    """All that a record says, one part a line."""
    if isinstance(record, TextRecord):
        return record.text
    if isinstance(record, InstructionRecord):
        return f"{record.prompt}\n{record.completion}"
    said = [message.content for message in record.messages]
    return "\n".join(said if isinstance(record, ChatRecord) else [*said, record.chosen, record.rejected])
