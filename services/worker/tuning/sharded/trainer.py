"""What one rank does otherwise than a process that trains alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.worker.tuning.objectives import UNSCORED, Example, token_count
from services.worker.tuning.placement import placed_like
from services.worker.tuning.trainer import PlainTrainer


class RankTrainer(PlainTrainer):
    """A trainer that believes itself alone, with micro-batches of which it is handed its share.

    Neither Trainer nor accelerate knows of the other ranks, for there is no environment variable that tells
    them: accelerate would shard on GPUs only, wrap the model on CPUs in what cannot be sharded, and fill up
    the last batch of an epoch with sequences from its beginning. So epochs, batches and schedule are those
    of one process by construction. What they all must know is summed up here.

    moments: the optimiser's state to resume with, one by one and each as a whole: which part, of which
    parameter. The checkpoint has none of it.
    """

    moments: Callable[[], Iterator[tuple[str, str, Tensor]]]

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        counted = super()._get_num_items_in_batch(batch_samples, device)
        return total(torch.as_tensor(counted, device=device))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        return total(super().training_step(model, inputs, num_items_in_batch))

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        scored = inputs["labels"].ne(UNSCORED).any()  # otherwise it stands in for a share without sequences
        tokens = (token_count(inputs) * scored).to(self.args.device)
        self.state.num_input_tokens_seen += int(total(tokens))

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm: Tensor = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The weights of the checkpoint are those that this rank began with."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for part, name, whole in self.moments():
            parameter = self.model.get_parameter(name)
            # Counts of steps are every rank's own.
            share = placed_like(whole, parameter) if whole.dim() else whole.to(parameter.device, copy=True)
            self.optimizer.state[parameter][part] = share


def total(amount: Tensor) -> Tensor:
    """The sum of what every rank has."""
    summed = amount.clone()
    dist.all_reduce(summed)
    return summed


@dataclass(frozen=True)
class Share:
    """Collates this rank's share of a micro-batch's examples: every n-th.

    Where there are fewer examples than ranks, some would have nothing to run, and the others wait for them
    for ever. They run the first one with nothing to learn in it.
    """

    collate: Callable[[Sequence[Example]], dict[str, Tensor]]
    rank: int
    processes: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        share = examples[self.rank :: self.processes]
        if share:
            return self.collate(share)
        stand_in = self.collate(examples[:1])
        return {**stand_in, "labels": torch.full_like(stand_in["labels"], UNSCORED)}


class StepSeeds(TrainerCallback):
    """Seeds torch at the begin of every step, by the run's seed, the step and the rank.

    So ranks drop out different units, and a run that is resumed needs to know of no rank's generator.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self.seed = seed
        self.rank = rank

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        words = f"{self.seed} {state.global_step} {self.rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:7]))
