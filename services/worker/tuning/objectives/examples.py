"""Token sequences with what is to be learned of them, and data sets of such sequences and of pairs."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from torch.utils.data import Dataset

UNSCORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """A token sequence and what it is to learn: labels are UNSCORED where no loss is taken.

    `labels[i]` is the token at i itself (the model shifts). The first is always UNSCORED: nothing stands
    before it to predict it from, and for some models Trainer counts all labels as predicted.

    position_ids: where several documents share the sequence without seeing each other, each token's
    index in its own document; empty for a sequence that is one document.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    position_ids: tuple[int, ...] = ()

    @property
    def scored_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return sum(label != UNSCORED for label in self.labels)


@dataclass(frozen=True)
class PreferenceExample:
    """Two answers to one prompt, as token sequences that begin with the same prompt.

    Labels are the answer's tokens and its end; the prompt's are UNSCORED. Both hold the very same tokens
    of the prompt, cut alike where it is too long.
    """

    chosen: Example
    rejected: Example

    @property
    def scored_tokens(self) -> int:
        """Tokens that the two log-probabilities are taken over."""
        return self.chosen.scored_tokens + self.rejected.scored_tokens


@dataclass(frozen=True)
class TokenDataset(Dataset[Example]):
    """Examples in order.

    left_out: records that did not fit the sequence length; shortened: records of which a part did not, the
    beginning of a prompt or the last turns of a chat.
    """

    examples: tuple[Example, ...]
    left_out: int = 0
    shortened: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all tokens, labels and positions in their order."""
        return hash_of(self.examples)


@dataclass(frozen=True)
class PreferenceDataset(Dataset[PreferenceExample]):
    """Pairs in order; left_out and shortened count as in `TokenDataset`."""

    examples: tuple[PreferenceExample, ...]
    left_out: int = 0
    shortened: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> PreferenceExample:
        return self.examples[index]

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all tokens and labels in their order, chosen before rejected."""
        return hash_of(side for pair in self.examples for side in (pair.chosen, pair.rejected))


def hash_of(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) of examples in their order."""
    digest = hashlib.sha256()
    for example in examples:
        tokens = (len(example.input_ids), *example.input_ids, *example.labels, *example.position_ids)
        digest.update(array("q", tokens))
    return digest.hexdigest()
