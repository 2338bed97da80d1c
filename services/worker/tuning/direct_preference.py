"""Direct preference optimisation (Rafailov et al., 2305.18290): the chosen answer is to gain on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from torch.utils.data import Dataset

from services.worker.language_models.batching import split_by_tokens
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.tuning.objectives import (
    UNSCORED,
    PreferenceDataset,
    PreferenceExample,
    collate_preferences,
)
from services.worker.tuning.trainer import PlainTrainer

TOKENS_PER_BATCH = 4096


def direct_preference_losses(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """−log σ(β ((π_c − ρ_c) − (π_r − ρ_r))) per pair, in nats (2305.18290, eq. 7).

    policy, reference: (pairs, 2) float, log-probabilities of the chosen and of the rejected answer by the
    model that learns and by the one that it started from.
    """
    gained = policy - reference
    return -logsigmoid(beta * (gained[:, 0] - gained[:, 1]))


def answer_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of what is scored in each row, summed over its tokens, in nats: (rows,) float32.

    logits: (rows, sequence, vocabulary); labels: (rows, sequence), the token at each place or UNSCORED.
    """
    losses = cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=UNSCORED, reduction="none"
    )
    return -losses.sum(dim=1)


def paired(rows: Tensor) -> Tensor:
    """From n chosen and then n rejected rows to (n, 2)."""
    return rows.view(2, -1).T


@torch.no_grad()  # not in inference mode: what a model keeps from this pass may be needed to train it
def pair_log_probs(
    language_model: LanguageModel,
    pairs: PreferenceDataset,
    token_budget: int = TOKENS_PER_BATCH,
    memory: GpuMemory | None = None,
) -> Tensor:
    """Log-probabilities of both answers of every pair, in nats: (pairs, 2) float32 on the CPU.

    The model is to be in evaluation mode. token_budget: padded tokens per forward pass. memory: told when
    fewer pairs than that fit into the GPU's memory at once. Raises OutOfGpuMemory.
    """
    found = torch.empty(len(pairs), 2)

    def score(batch: Sequence[int]) -> None:
        inputs = collate_preferences([pairs[index] for index in batch], language_model.pad_token_id)
        labels = inputs.pop("labels").to(language_model.device)
        inputs = {name: tensor.to(language_model.device) for name, tensor in inputs.items()}
        logits = language_model.model(**inputs, use_cache=False).logits
        found[list(batch)] = paired(answer_log_probs(logits, labels)).cpu()

    lengths = [2 * max(len(pair.chosen.input_ids), len(pair.rejected.input_ids)) for pair in pairs.examples]
    (memory or GpuMemory()).run("preferences were scored", split_by_tokens(lengths, token_budget), score)
    return found


class ReferencedPair(TypedDict):
    """A pair and the log-probabilities of its answers, (2,), by the model that the tuning starts from."""

    pair: PreferenceExample
    reference: Tensor


@dataclass(frozen=True)
class ReferencedPairs(Dataset[ReferencedPair]):
    """Pairs to train on; reference: (pairs, 2), see `pair_log_probs`."""

    pairs: PreferenceDataset
    reference: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> ReferencedPair:
        return {"pair": self.pairs[index], "reference": self.reference[index]}


def collate_referenced(items: Sequence[ReferencedPair], pad_token_id: int) -> dict[str, Tensor]:
    """What `collate_preferences` gives, and the references as `reference`, (pairs, 2)."""
    inputs = collate_preferences([item["pair"] for item in items], pad_token_id)
    return {**inputs, "reference": torch.stack([item["reference"] for item in items])}


def mean_preference_loss(
    language_model: LanguageModel,
    pairs: ReferencedPairs,
    beta: float,
    memory: GpuMemory | None = None,
) -> float:
    """Mean loss over the pairs, in nats per pair; the model is to be in evaluation mode.

    It is log 2 for the model that the references are of.
    """
    policy = pair_log_probs(language_model, pairs.pairs, memory=memory)
    return float(direct_preference_losses(policy, pairs.reference, beta).double().mean())


class PreferenceTrainer(PlainTrainer):
    """Descends the mean preference loss of a step's pairs, however they fall into micro-batches."""

    beta: float
    loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        inputs = dict(inputs)
        labels, reference = inputs.pop("labels"), inputs.pop("reference")
        outputs = model(**inputs)
        policy = paired(answer_log_probs(outputs.logits, labels))
        assert num_items_in_batch is not None  # noqa: S101 (it is counted below)
        loss = direct_preference_losses(policy, reference, self.beta).sum() / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        return torch.tensor(sum(len(batch["reference"]) for batch in batch_samples), device=device)
