"""Prefix tuning: virtual tokens whose keys and values learn, in every block (Li & Liang, 2101.00190)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PrefixEncoder, PrefixTuningConfig
from torch import Tensor, nn
from transformers import DynamicCache

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.virtual_tokens import (
    Arguments,
    check_room,
    token_embedding,
    virtual_tokens_learning,
)
from shared.recipes import PrefixTuningUpdate
from shared.recipes.updates import Precision


@dataclass(frozen=True)
class LearntKeysAndValues:
    """Virtual tokens that are there as keys and values only.

    encoder: peft's, whose weight is (tokens, 2 · blocks · heads · width of a head); embedding: the model's.
    """

    encoder: PrefixEncoder
    blocks: int
    heads: int
    embedding: nn.Embedding

    @property
    def dtype(self) -> torch.dtype:
        """That of the keys and values that the model makes at the moment."""
        own = self.embedding.weight
        if torch.is_autocast_enabled(own.device.type):
            return torch.get_autocast_dtype(own.device.type)
        return own.dtype

    @property
    def read(self) -> int:
        """See `Preamble.read`: none of them."""
        return 0

    def put_before(self, arguments: Arguments) -> Arguments:
        """See `Preamble.put_before`. Raises ValueError for a cache that does not keep what is put there."""
        weight = self.encoder.embedding.weight.to(self.dtype)
        tokens, rows = len(weight), len(arguments["input_ids"])
        parts = weight.view(tokens, 2 * self.blocks, self.heads, -1).permute(1, 2, 0, 3).unsqueeze(1)
        cache = arguments.get("past_key_values")
        cache = DynamicCache() if cache is None else cache
        for block in range(self.blocks):
            keys, values = (parts[2 * block + part].expand(rows, -1, -1, -1) for part in (0, 1))
            cache.update(keys, values, block)
        if cache.get_seq_length() != tokens:
            raise ValueError(f"{type(cache).__name__} does not keep virtual tokens")
        return {**arguments, "past_key_values": cache}


@contextmanager
def keys_and_values_learning(
    language_model: LanguageModel, update: PrefixTuningUpdate, precision: Precision
) -> Iterator[Learner]:
    """The keys and values of virtual tokens learn.

    They begin as those of random tokens of the vocabulary: the paper finds activations of real words the
    best beginning, and random numbers one that upsets the model (section 7.4).
    """
    check_room(language_model, update)
    count = update.virtual_tokens
    embedding = token_embedding(language_model)
    sampled = torch.randint(0, embedding.num_embeddings, (count,)).tolist()
    begun = keys_and_values(language_model, sampled)
    sides, heads, _, width = begun.shape
    configuration = PrefixTuningConfig(
        num_virtual_tokens=count, num_layers=sides // 2, token_dim=heads * width
    )
    encoder = PrefixEncoder(configuration)  # type: ignore[no-untyped-call]
    encoder.load_prompt_embeddings(begun.permute(2, 0, 1, 3).flatten(1))
    preamble = LearntKeysAndValues(encoder, sides // 2, heads, embedding)
    with virtual_tokens_learning(language_model, update, preamble, precision) as learner:
        yield learner


@torch.no_grad()
def keys_and_values(language_model: LanguageModel, tokens: Sequence[int]) -> Tensor:
    """What the model's attention keeps of some tokens: (2 · blocks, heads, tokens, width of a head) float32.

    Keys and values take turns. Raises RecipeDoesNotFit, naming the model's class, when it keeps none, or
    its blocks keep them in different shapes.
    """
    model = language_model.model
    kind = type(model).__name__
    cache = DynamicCache()
    try:
        model(
            torch.tensor([list(tokens)], device=language_model.device), past_key_values=cache, use_cache=True
        )
        layers: list[Any] = list(cache.layers)  # those of other attention have neither
        kept = [part[0].float() for layer in layers for part in (layer.keys, layer.values)]
    except (AttributeError, TypeError) as error:
        raise RecipeDoesNotFit(f"prefix_tuning: {kind} keeps no keys and values") from error
    blocks = len(language_model.anatomy.blocks)
    if len(kept) != 2 * blocks or len({part.shape for part in kept}) != 1:
        raise RecipeDoesNotFit(f"prefix_tuning: the blocks of {kind} do not all keep keys and values alike")
    return torch.stack(kept).cpu()
