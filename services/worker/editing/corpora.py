"""The texts over which key statistics are taken: given, or written by the model itself.

Either is read in portions, so that neither tokens nor texts of a large corpus are held all at once, and a
reading that was interrupted goes on from the portion it had come to.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from services.worker.language_models.batching import encode_prompts, encode_texts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.sampling import sample_continuations, start_of_text

SAMPLE_LENGTH = 128
SAMPLES_AT_ONCE = 256
PORTION_TOKENS = SAMPLE_LENGTH * SAMPLES_AT_ONCE
TEXTS_AT_ONCE = 1_000  # encoded together

Portion = Sequence[
    Sequence[int]
]  # token ids of each text, encoded alone, with BOS where the tokenizer adds it


@dataclass(frozen=True)
class Reading:
    """A corpus as one model reads it.

    token_count: of the whole. portions_from: the portions from the one with this number on; the same
    portion holds the same sequences whichever one the reading begins with.
    """

    token_count: int
    portions_from: Callable[[int], Iterator[Portion]]


class Corpus(Protocol):
    """Texts with a name that changes whenever they do."""

    @property
    def identity(self) -> str: ...

    def read(self, language_model: LanguageModel, progress: Progress, memory: GpuMemory) -> Reading:
        """The corpus in this model's tokens.

        progress: called with the tokens written, and of how many, where the texts have yet to be written.
        memory: told when fewer are written at once than were meant to be.
        """
        ...


@dataclass(frozen=True)
class GivenTexts:
    """Texts, of which the first `token_count` tokens count (None: all).

    Every other text comes first when they are read, so that either half holds texts of every kind.
    """

    texts: Sequence[str]
    token_count: int | None = None

    @property
    def identity(self) -> str:
        return digest(["given", list(self.texts), self.token_count])

    def read(self, language_model: LanguageModel, progress: Progress, memory: GpuMemory) -> Reading:
        """See `Corpus.read`; everything is written already."""
        encoded = list(first_tokens(self._encoded(language_model), self.token_count))
        portions = list(in_portions([*encoded[0::2], *encoded[1::2]]))
        tokens = sum(map(len, encoded))
        progress(tokens, tokens)
        return Reading(tokens, lambda first: iter(portions[first:]))

    def _encoded(self, language_model: LanguageModel) -> Iterator[Sequence[int]]:
        for first in range(0, len(self.texts), TEXTS_AT_ONCE):
            texts = self.texts[first : first + TEXTS_AT_ONCE]
            for ids in encode_texts(language_model.tokenizer, texts):
                if ids:
                    yield array("i", ids[: language_model.context_length])  # a quarter of a list's memory


@dataclass(frozen=True)
class SampledTexts:
    """Texts drawn from the model's own distribution: what it may say, without any data."""

    token_count: int
    seed: int

    @property
    def identity(self) -> str:
        return digest(["sampled", SAMPLE_LENGTH, self.token_count, self.seed])

    def read(self, language_model: LanguageModel, progress: Progress, memory: GpuMemory) -> Reading:
        """See `Corpus.read`; each portion is written when it is due."""
        start = start_of_text(language_model)
        adds_bos = encode_prompts(language_model.tokenizer, ["a"])[0][:1] == start
        length = min(SAMPLE_LENGTH, language_model.context_length or SAMPLE_LENGTH)
        per_round = SAMPLES_AT_ONCE * (length if adds_bos else length - 1)
        rounds = math.ceil(self.token_count / per_round)
        drawn_per_round = SAMPLES_AT_ONCE * (length - 1)

        def portions_from(first: int) -> Iterator[Portion]:
            generator = torch.Generator().manual_seed(self.seed)
            for _ in range(first):  # what chance was to the rounds before
                torch.rand((SAMPLES_AT_ONCE, length - 1), generator=generator)
            work = WorkDone(
                # Whole rounds are drawn, of which the last may not be needed in full.
                lambda drawn, whole: progress(self.token_count * drawn // whole, self.token_count),
                whole=rounds * drawn_per_round,
                done=first * drawn_per_round,
            )
            for number in range(first, rounds):
                drawn = sample_continuations(
                    language_model, [start] * SAMPLES_AT_ONCE, length - 1, generator, work, memory
                )
                sequences = [start + row if adds_bos else row for row in drawn.tolist()]
                yield list(first_tokens(sequences, self.token_count - number * per_round))

        return Reading(self.token_count, portions_from)


def first_tokens(sequences: Iterable[Sequence[int]], token_count: int | None) -> Iterator[Sequence[int]]:
    """The sequences up to a number of tokens, the last one cut."""
    left = math.inf if token_count is None else token_count
    for sequence in sequences:
        if left < len(sequence):
            sequence = sequence[: int(left)]
        if not sequence:
            return
        yield sequence
        left -= len(sequence)


def in_portions(sequences: Sequence[Sequence[int]]) -> Iterator[Portion]:
    """Sequences in their order, so many at once that they have PORTION_TOKENS or a little more."""
    portion: list[Sequence[int]] = []
    tokens = 0
    for sequence in sequences:
        portion.append(sequence)
        tokens += len(sequence)
        if tokens >= PORTION_TOKENS:
            yield portion
            portion, tokens = [], 0
    if portion:
        yield portion


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
