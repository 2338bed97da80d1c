"""From examples to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from services.worker.language_models.batching import PaddingSide, pad
from services.worker.tuning.objectives.examples import UNSCORED, Example, PreferenceExample

PADDING_POSITION = 0  # so that every place of padding is a document of its own


def collate(examples: Sequence[Example], pad_token_id: int, side: PaddingSide = "right") -> dict[str, Tensor]:
    """Pad examples: input_ids, attention_mask and labels, each (batch, sequence) int64.

    Where an example holds several documents there is no attention_mask but position_ids, (batch,
    sequence) int64, that begin anew with every document: transformers makes the mask from them. Padding
    is then always on the right.
    """
    packed = any(example.position_ids for example in examples)
    side = "right" if packed else side
    tokens = pad([example.input_ids for example in examples], pad_token_id, side)
    labels = pad([example.labels for example in examples], UNSCORED, side).input_ids
    if packed:
        positions = [example.position_ids or range(len(example.input_ids)) for example in examples]
        position_ids = pad(positions, PADDING_POSITION, side).input_ids
        return {"input_ids": tokens.input_ids, "position_ids": position_ids, "labels": labels}
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "labels": labels}


def collate_preferences(examples: Sequence[PreferenceExample], pad_token_id: int) -> dict[str, Tensor]:
    """Pad n pairs on the right: the n chosen rows first, then the n rejected ones in the same order.

    input_ids, attention_mask and labels, each (2n, sequence) int64.
    """
    rows = [pair.chosen for pair in examples] + [pair.rejected for pair in examples]
    return collate(rows, pad_token_id)


def token_count(batch: Mapping[str, Tensor]) -> Tensor:
    """Tokens of a collated batch, padding not counted: () int64.

    Documents of a packed batch have two tokens at least, so a token at position 0 with no position 1
    after it is padding.
    """
    if "attention_mask" in batch:
        return batch["attention_mask"].sum()
    positions = batch["position_ids"]
    following = torch.nn.functional.pad(positions[:, 1:], (0, 1), value=PADDING_POSITION)
    return ((positions > 0) | (following == 1)).sum()
