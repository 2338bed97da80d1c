"""Token sequences, padded on either side, and batches that fit a budget of tokens."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class TokenBatch:
    """Padded token sequences.

    input_ids, attention_mask: (batch, sequence) int64; the mask is 1 on tokens and 0 on padding.
    """

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens per row, padding not counted: (batch,) int64."""
        return self.attention_mask.sum(dim=1)

    @property
    def starts(self) -> Tensor:
        """Column of each row's first token: (batch,) int64; zero under right padding."""
        return self.attention_mask.argmax(dim=1)

    @property
    def position_ids(self) -> Tensor:
        """Index of each token in its own sequence: (batch, sequence) int64; zero on left padding."""
        return (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)

    def columns(self, positions: Tensor) -> Tensor:
        """Turn positions counted from each row's first token, (batch,) int64, into columns."""
        return self.starts + positions.to(self.starts.device)

    def to(self, device: torch.device) -> "TokenBatch":
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device))

    def forward_arguments(self, model: PreTrainedModel) -> dict[str, Any]:
        """Keyword arguments of a forward pass that is right under either padding side.

        Positions are passed to every model that takes them; the others (ALiBi) read the mask.
        """
        arguments: dict[str, Any] = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if "position_ids" in inspect.signature(model.forward).parameters:
            arguments["position_ids"] = self.position_ids
        return arguments


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of complete texts, with whatever special tokens the tokenizer adds by default (BOS, EOS)."""
    return [list(ids) for ids in tokenizer(list(texts))["input_ids"]] if texts else []


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts to be continued.

    The special tokens that the tokenizer puts before a text by default (BOS) are kept, those that it puts
    after one (EOS) are not: the text does not end here.
    """
    ending = len(tokens_after_text(tokenizer))
    return [ids[: len(ids) - ending] for ids in encode_texts(tokenizer, prompts)]


def tokens_after_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts after any text by default; nothing for most decoders'."""
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False)
    whole: list[int] = tokenizer.encode("a")
    for end in range(len(whole), len(bare) - 1, -1):
        if whole[end - len(bare) : end] == bare:
            return whole[end:]
    return []


def encode_target(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    """Token ids of a target as it continues a prompt: after one space, without special tokens.

    A tokenizer of the SentencePiece kind puts a space of its own before any text, so that " Paris" alone
    would begin with two. The target is therefore encoded after a letter, whose tokens are cut off.
    """
    text = " " + target.lstrip()
    anchor: list[int] = tokenizer.encode("a", add_special_tokens=False)
    anchored: list[int] = tokenizer.encode("a" + text, add_special_tokens=False)
    if anchored[: len(anchor)] == anchor:
        return anchored[len(anchor) :]
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return alone


def pad(sequences: Sequence[Sequence[int]], pad_token_id: int, side: PaddingSide) -> TokenBatch:
    """Pad token sequences to the longest; every sequence has at least one token."""
    width = max(len(sequence) for sequence in sequences)
    input_ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(sequences), width), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        start = width - len(sequence) if side == "left" else 0
        input_ids[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, start : start + len(sequence)] = 1
    return TokenBatch(input_ids, attention_mask)


def split_by_tokens(
    lengths: Sequence[int], token_budget: int, rows: Sequence[int] | None = None
) -> list[list[int]]:
    """Group items of similar length into batches of at most `token_budget` padded tokens.

    lengths: tokens of the longest row of each item; rows: rows that each item takes (one by default).
    Returns lists of indices, longest items first so that memory peaks at once; an item that alone
    exceeds the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    width, taken = 0, 0
    for index in order:
        item_rows = 1 if rows is None else rows[index]
        if not batches or (taken + item_rows) * width > token_budget:
            batches.append([])
            width, taken = lengths[index], 0
        batches[-1].append(index)
        taken += item_rows
    return batches
