"""The fine-tuning task's own loss on records held out of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from services.worker.language_models.batching import PaddingSide, TokenBatch, split_by_tokens
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.tuning.objectives import UNSCORED, Example, TokenDataset, collate

TOKENS_PER_BATCH = 4096


def held_out_loss(
    language_model: LanguageModel,
    dataset: TokenDataset,
    token_budget: int = TOKENS_PER_BATCH,
    memory: GpuMemory | None = None,
) -> float:
    """Mean cross entropy over all scored tokens of the dataset, in nats per token.

    The mean is weighted by token, so how examples fall into batches of at most `token_budget` padded
    tokens does not matter. The model is to be in evaluation mode.
    memory: told when fewer examples than that fit into the GPU's memory at once. Raises OutOfGpuMemory.
    """
    sums: list[float] = []

    def add(batch: Sequence[int]) -> None:
        sums.append(summed_loss(language_model, [dataset.examples[index] for index in batch]))

    batches = split_by_tokens([len(example.input_ids) for example in dataset.examples], token_budget)
    (memory or GpuMemory()).run("held-out records were scored", batches, add)
    return sum(sums) / sum(example.scored_tokens for example in dataset.examples)


@torch.no_grad()  # not in inference mode: what a model keeps from this pass may be needed to train it
def summed_loss(
    language_model: LanguageModel, examples: Sequence[Example], side: PaddingSide = "right"
) -> float:
    """Cross entropy summed over the scored tokens of one padded batch, in nats."""
    batch = collate(examples, language_model.pad_token_id, side)
    targets = batch.pop("labels")[:, 1:].to(language_model.device)
    arguments = {name: tensor.to(language_model.device) for name, tensor in batch.items()}
    if "attention_mask" in arguments:
        tokens = TokenBatch(arguments["input_ids"], arguments["attention_mask"])
        arguments = tokens.forward_arguments(language_model.model)
    logits = language_model.model(**arguments, use_cache=False).logits[
        :, :-1
    ]  # (batch, sequence − 1, vocabulary)
    losses = cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=UNSCORED, reduction="none"
    )
    return float(losses.double().sum())
