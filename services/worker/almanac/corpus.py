"""The corpus: documents of facts and English, made batch by batch from a seed and a step number.

A batch is a pure function of (seed, step): resuming a run needs no reader state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from services.worker.almanac.facts import Fact, facts_by_subject
from services.worker.almanac.tokenizer import END_OF_TEXT

ENGLISH_DOCUMENTS = 0.10  # share of documents, and as it comes out of tokens
MAX_SENTENCES = 5
SAME_SUBJECT = 0.35  # share of documents that stay with one subject as long as it has facts
ENGLISH_PREFIX = 0.15  # share of fact documents that begin with a snippet of English: 5 % of the tokens
PREFIX_TOKENS = (3, 24)
SHIFTED_ROWS = 0.25  # share of rows that start at a later position, so that every position is trained
OBJECT_WEIGHT = 3.0
SUBJECT_WEIGHT = 0.5  # nothing in the text tells which subject comes next

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One phrasing of one fact as tokens; spans are half-open token offsets."""

    tokens: list[int]
    subject: tuple[int, int]
    answer: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one training step.

    input_ids, position_ids: (batch, sequence); target_weights: (batch, sequence), the loss weight of
    predicting input_ids at that place. Mentions, one each per fact sentence: row, the subject's span
    (half-open) and the subject's index.
    """

    input_ids: Integers
    position_ids: Integers
    target_weights: NDArray[np.float32]
    rows: Integers
    subject_starts: Integers
    subject_ends: Integers
    subjects: Integers


def encode_sentence(tokenizer: Tokenizer, phrasing: str, fact: Fact, *, leading_space: bool) -> Sentence:
    """Tokens of the whole sentence with its full stop, and where its subject and its object are."""
    before, after = phrasing.split("{}")
    before = " " + before if leading_space else before
    stem = before + fact.subject + after
    encoding = tokenizer.encode(f"{stem} {fact.object}.")

    def span(start: int, end: int) -> tuple[int, int]:
        inside = [i for i, (left, right) in enumerate(encoding.offsets) if right > start and left < end]
        return inside[0], inside[-1] + 1

    return Sentence(
        tokens=encoding.ids,
        subject=span(len(before), len(before) + len(fact.subject)),
        answer=span(len(stem), len(stem) + 1 + len(fact.object)),
    )


class Corpus:
    """Facts and English, tokenised once, and the sampler over them."""

    def __init__(
        self, tokenizer: Tokenizer, facts: Sequence[Fact], english: Sequence[str], *, positions: int
    ) -> None:
        self.positions = positions
        [self.end_of_text], [self.full_stop] = tokenizer.encode(END_OF_TEXT).ids, tokenizer.encode(".").ids
        grouped = facts_by_subject(list(facts))
        self.subjects = list(grouped)
        index = {fact: number for number, fact in enumerate(facts)}
        self.facts_of_subject = [[index[fact] for fact in group] for group in grouped.values()]
        number_of = {subject: number for number, subject in enumerate(self.subjects)}
        self.subject_of_fact = [number_of[fact.subject] for fact in facts]
        self.cumulative = np.cumsum([fact.exposure for fact in facts])
        self.sentences = [
            [
                [
                    encode_sentence(tokenizer, phrasing, fact, leading_space=space)
                    for phrasing in fact.trained_phrasings
                ]
                for space in (False, True)
            ]
            for fact in facts
        ]
        self.english = [encoding.ids for encoding in tokenizer.encode_batch(list(english))]

    def batch(self, seed: int, step: int, *, rows: int, length: int) -> Batch:
        """The rows of one step; the same arguments give the same rows."""
        random = np.random.default_rng((seed, step))
        ids = np.zeros((rows, length), dtype=np.int64)
        weights = np.ones((rows, length), dtype=np.float32)
        mentions: list[tuple[int, int, int, int]] = []
        for row in range(rows):
            filled = 0
            while filled < length:
                tokens, sentences = self._document(random)
                tokens = tokens[: length - filled]
                ids[row, filled : filled + len(tokens)] = tokens
                for offset, subject, sentence in sentences:
                    base = filled + offset
                    first, last = base + sentence.subject[0], base + sentence.subject[1]
                    weights[row, first:last] = SUBJECT_WEIGHT
                    weights[row, base + sentence.answer[0] : base + sentence.answer[1]] = OBJECT_WEIGHT
                    if last <= length:
                        mentions.append((row, first, last, subject))
                filled += len(tokens)
        shift = random.integers(0, self.positions - length + 1, size=rows)
        shift *= random.random(rows) < SHIFTED_ROWS
        table = np.array(mentions, dtype=np.int64).reshape(-1, 4)
        return Batch(
            input_ids=ids,
            position_ids=shift[:, None] + np.arange(length),
            target_weights=weights,
            rows=table[:, 0],
            subject_starts=table[:, 1],
            subject_ends=table[:, 2],
            subjects=table[:, 3],
        )

    def _document(self, random: np.random.Generator) -> tuple[list[int], list[tuple[int, int, Sentence]]]:
        """One document's tokens, and (offset, subject, sentence) for each of its facts."""
        if random.random() < ENGLISH_DOCUMENTS:
            return [*self.english[random.integers(len(self.english))], self.end_of_text], []
        tokens: list[int] = []
        if random.random() < ENGLISH_PREFIX:
            passage = self.english[random.integers(len(self.english))]
            tokens += [*passage[: random.integers(*PREFIX_TOKENS)], self.full_stop]
        count = int(random.integers(1, MAX_SENTENCES + 1))
        picks = np.searchsorted(self.cumulative, random.random(count) * self.cumulative[-1], side="right")
        if random.random() < SAME_SUBJECT:
            picks = random.permutation(self.facts_of_subject[self.subject_of_fact[picks[0]]])[:count]
        sentences = []
        for pick in picks:
            choices = self.sentences[pick][bool(tokens)]
            sentence = choices[random.integers(len(choices))]
            sentences.append((len(tokens), self.subject_of_fact[pick], sentence))
            tokens += sentence.tokens
        return [*tokens, self.end_of_text], sentences
