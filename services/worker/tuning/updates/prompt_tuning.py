"""Prompt tuning: virtual tokens whose embeddings learn (Lester et al., 2104.08691)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PromptEmbedding, PromptTuningConfig
from torch import nn

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.updates.learner import Learner
from services.worker.tuning.updates.virtual_tokens import (
    Arguments,
    check_room,
    token_embedding,
    virtual_tokens_learning,
)
from shared.recipes import PromptTuningUpdate
from shared.recipes.updates import Precision


@dataclass(frozen=True)
class LearntEmbeddings:
    """Virtual tokens that the model reads as embeddings; `embedding` is that of its real tokens."""

    encoder: PromptEmbedding
    embedding: nn.Module

    @property
    def read(self) -> int:
        """See `Preamble.read`: all of them."""
        return int(self.encoder.embedding.num_embeddings)

    def put_before(self, arguments: Arguments) -> Arguments:
        """See `Preamble.put_before`."""
        rows = arguments.get("inputs_embeds")
        rows = self.embedding(arguments["input_ids"]) if rows is None else rows
        learnt = self.encoder.embedding.weight.to(rows.dtype).expand(len(rows), -1, -1)
        others = {name: value for name, value in arguments.items() if name != "input_ids"}
        return {**others, "inputs_embeds": torch.cat([learnt, rows], dim=1)}


@contextmanager
def embeddings_learning(
    language_model: LanguageModel, update: PromptTuningUpdate, precision: Precision
) -> Iterator[Learner]:
    """The embeddings of virtual tokens learn; they begin as those of random tokens of the vocabulary."""
    check_room(language_model, update)
    embedding = token_embedding(language_model)
    configuration = PromptTuningConfig(
        num_virtual_tokens=update.virtual_tokens,
        token_dim=embedding.weight.shape[1],
        num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
    )
    encoder = PromptEmbedding(configuration, embedding)  # type: ignore[no-untyped-call]
    preamble = LearntEmbeddings(encoder, embedding)
    with virtual_tokens_learning(language_model, update, preamble, precision) as learner:
        yield learner
