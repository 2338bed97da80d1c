"""The texts over which key statistics are taken: given, or written by the model itself."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.sampling import sample_continuations, start_of_text

SAMPLE_LENGTH = 128
SAMPLES_AT_ONCE = 256


class Corpus(Protocol):
    """Token sequences with a name that changes whenever they do."""

    @property
    def identity(self) -> str: ...

    def sequences(
        self, language_model: LanguageModel, progress: Progress, memory: GpuMemory
    ) -> list[list[int]]:
        """Token ids of each text, encoded alone, with BOS where the tokenizer adds it.

        progress: called with the tokens written, and of how many, where the texts have yet to be written.
        memory: told when fewer are written at once than were meant to be.
        """
        ...


@dataclass(frozen=True)
class GivenTexts:
    """Texts, of which the first `token_count` tokens count (None: all)."""

    texts: Sequence[str]
    token_count: int | None = None

    @property
    def identity(self) -> str:
        return digest(["given", list(self.texts), self.token_count])

    def sequences(
        self, language_model: LanguageModel, progress: Progress, memory: GpuMemory
    ) -> list[list[int]]:
        longest = language_model.context_length
        encoded = [ids[:longest] for ids in encode_prompts(language_model.tokenizer, self.texts) if ids]
        return first_tokens(encoded, self.token_count)


@dataclass(frozen=True)
class SampledTexts:
    """Texts drawn from the model's own distribution: what it may say, without any data."""

    token_count: int
    seed: int

    @property
    def identity(self) -> str:
        return digest(["sampled", SAMPLE_LENGTH, self.token_count, self.seed])

    def sequences(
        self, language_model: LanguageModel, progress: Progress, memory: GpuMemory
    ) -> list[list[int]]:
        start = start_of_text(language_model)
        adds_bos = encode_prompts(language_model.tokenizer, ["a"])[0][:1] == start
        length = min(SAMPLE_LENGTH, language_model.context_length or SAMPLE_LENGTH)
        generator = torch.Generator().manual_seed(self.seed)
        rounds = math.ceil(self.token_count / (SAMPLES_AT_ONCE * (length if adds_bos else length - 1)))
        work = WorkDone(
            # Whole rounds are drawn, of which the last may not be needed in full.
            lambda drawn, whole: progress(self.token_count * drawn // whole, self.token_count),
            whole=rounds * SAMPLES_AT_ONCE * (length - 1),
        )
        sequences: list[list[int]] = []
        for _ in range(rounds):
            drawn = sample_continuations(
                language_model, [start] * SAMPLES_AT_ONCE, length - 1, generator, work, memory
            )
            sequences += [start + row if adds_bos else row for row in drawn.tolist()]
        return first_tokens(sequences, self.token_count)


def first_tokens(sequences: list[list[int]], token_count: int | None) -> list[list[int]]:
    """The sequences up to a number of tokens, the last one cut."""
    if token_count is None:
        return sequences
    kept: list[list[int]] = []
    left = token_count
    for sequence in sequences:
        if left <= 0:
            break
        kept.append(sequence[:left])
        left -= len(sequence)
    return kept


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
