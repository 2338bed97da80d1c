"""Leaving a training run between two steps, so that another attempt can go on from there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.errors import HandedOver
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.placement import gathered
from services.worker.tuning.randomness import RandomStates, undisturbed_randomness
from services.worker.tuning.trainer import Observer
from shared.recipes import Recipe

log = logging.getLogger(__name__)

STEPS_AFTER_FAILED_WRITING = 100  # before it is tried again: a full disk stays full for a while


def never() -> bool:
    """The answer of a caller who does not interrupt."""
    return False


def keep_nothing(path: Path, step: int) -> None:
    """What a caller does who has no place for checkpoints."""


@dataclass(frozen=True)
class Continuation:
    """How a run may be left and taken up again; by default it runs from its start to its end.

    resume: the checkpoint to go on from. `due()` and `asked_to_hand_over()` are asked after every step
    but the last, when its probe and its progress are done. On a yes a checkpoint is written, with
    `notes()` inside, and given to `store(path, step)`; the file is deleted when that returns. After a
    yes of `asked_to_hand_over` the run ends with HandedOver.
    """

    resume: Checkpoint | None = None
    due: Callable[[], bool] = never
    asked_to_hand_over: Callable[[], bool] = never
    store: Callable[[Path, int], None] = keep_nothing
    notes: Callable[[], str] = str


UNINTERRUPTED = Continuation()


@dataclass(frozen=True)
class Around:
    """What is in a checkpoint beside what is trained; see `Checkpoint`."""

    run: dict[str, Any]
    notes: str
    held_out_loss_before: float
    losses: tuple[float, ...]


class CheckpointWriter(TrainerCallback):
    """Asks after every step whether to store a checkpoint and whether to leave; comes after `observer`."""

    def __init__(
        self,
        continuation: Continuation,
        run: dict[str, Any],
        held_out_loss_before: float,
        observer: Observer,
        directory: Path,
    ) -> None:
        self.continuation = continuation
        self.run = run
        self.held_out_loss_before = held_out_loss_before
        self.observer = observer
        self.path = directory / "checkpoint.safetensors"
        self.not_before = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **trained: Any,
    ) -> None:
        """Called after every optimiser step, and once more with totals at the end of the run."""
        if control.should_training_stop or state.global_step >= state.max_steps:
            # What is left takes less time than a checkpoint.
            return
        randomness = RandomStates.now(args.device)
        with undisturbed_randomness(args.device):
            handing_over = self.continuation.asked_to_hand_over()
            if handing_over or (state.global_step >= self.not_before and self.continuation.due()):
                self.store(state, randomness, trained)
        if handing_over:
            raise HandedOver(state.global_step)

    @property
    def around(self) -> Around:
        """What a checkpoint at this moment says beside what is trained."""
        return Around(
            run=self.run,
            notes=self.continuation.notes(),
            held_out_loss_before=self.held_out_loss_before,
            losses=tuple(self.observer.losses),
        )

    def write(self, state: TrainerState, randomness: RandomStates, trained: Mapping[str, Any]) -> None:
        """Write the checkpoint's file. Raises OSError or SafetensorError when there is no room for it.

        trained: what transformers tells a callback.
        """
        model, optimizer, scheduler = (trained[part] for part in ("model", "optimizer", "lr_scheduler"))
        captured(self.around, state, randomness, model, optimizer, scheduler).write(self.path)

    def store(self, state: TrainerState, randomness: RandomStates, trained: Mapping[str, Any]) -> None:
        """Write a checkpoint and give it to the caller; without room for it, the one before stands."""
        step = state.global_step
        try:
            self.write(state, randomness, trained)
        except (OSError, SafetensorError) as error:
            log.warning("no checkpoint after step %d: %s", step, error)
            self.not_before = step + STEPS_AFTER_FAILED_WRITING
        else:
            self.continuation.store(self.path, step)
        finally:
            self.path.unlink(missing_ok=True)


def captured(
    around: Around,
    state: TrainerState,
    randomness: RandomStates,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
) -> Checkpoint:
    """The run as it stands; its tensors are those that learn, not copies.

    What several processes share is gathered: they are all to ask for it, and only the first gets it.
    """
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    states = {
        name: {part: gathered(tensor) for part, tensor in optimizer.state.get(weight, {}).items()}
        for name, weight in learning.items()
    }
    return Checkpoint(
        run=around.run,
        notes=around.notes,
        held_out_loss_before=around.held_out_loss_before,
        losses=around.losses,
        trainer=asdict(replace(state, log_history=[])),
        scheduler=scheduler.state_dict(),
        learning_rates=tuple(group["lr"] for group in optimizer.param_groups),
        randomness=randomness,
        weights={name: gathered(weight) for name, weight in learning.items()},
        optimizer=by_part(states),
    )


def by_part(states: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """From parameter → part of the optimiser's state → tensor to part → parameter → tensor."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, state in states.items():
        for part, tensor in state.items():
            parts.setdefault(part, {})[name] = tensor
    return parts


def description_of(
    language_model: LanguageModel,
    recipe: Recipe,
    data_hashes: Sequence[str],
    *,
    frozen: Frozen,
    seed: int,
    micro_batch: int,
    processes: int,
) -> dict[str, Any]:
    """What makes two runs the same, but for the parameters that learn; in JSON's own types.

    The names of recipe and freezing are left out, for they change nothing. The kind of device is in it:
    another kind has other random generators and sums in another order.
    """
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"name", "data", "freeze"}),
        "data": list(data_hashes),
        "frozen": {"blocks": list(frozen.blocks), "parameters": list(frozen.parameters)},
        "seed": seed,
        "micro_batch": micro_batch,
        "processes": processes,
        "model": language_model.revision,
        "dtype": str(language_model.dtype),
        "device": language_model.device.type,
    }


def learning_parameters(learning: nn.Module) -> dict[str, list[Any]]:
    """Dtype and shape of every parameter that learns, by name; in JSON's own types."""
    return {
        name: [str(weight.dtype), *weight.shape]
        for name, weight in learning.named_parameters()
        if weight.requires_grad
    }
