"""transformers' Trainer, set up to train on one device and do nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput
from transformers.trainer import TRAINER_STATE_NAME

from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.errors import MicroBatchTooLarge, TrainingDiverged
from services.worker.tuning.objectives import UNSCORED, token_count
from shared.recipes import Recipe

# Recipe schedule → transformers' name; its "constant" is the one that knows no warm-up.
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class PlainTrainer(Trainer):
    """Trainer with its own way to resume, and without its count of floating-point operations.

    bfloat16_forward: run forward passes in bfloat16 where that is safe, as mixed-precision training does.

    That count walks all parameters at every step. Trainer finds the place in the data and in the
    schedule again; what it would unpickle is put back here from a checkpoint of this project.
    """

    model: nn.Module  # Trainer declares these three as possibly missing
    optimizer: torch.optim.Optimizer
    lr_scheduler: LambdaLR
    checkpoint: Checkpoint
    bfloat16_forward = False

    def compute_loss_context_manager(self) -> ExitStack:
        stack = super().compute_loss_context_manager()
        if self.bfloat16_forward:
            stack.enter_context(torch.autocast(self.args.device.type, torch.bfloat16))
        return stack

    def resume(self, checkpoint: Checkpoint) -> None:
        """Train from a checkpoint of this same run on to the end."""
        self.checkpoint = checkpoint
        directory = self._get_output_dir(trial=None)
        Path(directory, TRAINER_STATE_NAME).write_text(json.dumps(checkpoint.trainer))
        self.train(resume_from_checkpoint=directory)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        tokens = token_count(inputs).to(self.args.device)  # Trainer would count padding of packed batches
        self.state.num_input_tokens_seen += int(self.accelerator.gather(tokens).sum())

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except torch.OutOfMemoryError as error:
            raise MicroBatchTooLarge(self.args.per_device_train_batch_size) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with torch.no_grad():
            for name, weight in self.checkpoint.weights.items():
                self.model.get_parameter(name).copy_(weight)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        for part, by_name in self.checkpoint.optimizer.items():
            for name, tensor in by_name.items():
                parameter = self.model.get_parameter(name)
                self.optimizer.state[parameter][part] = tensor.to(parameter.device, copy=True)
        for group, rate in zip(self.optimizer.param_groups, self.checkpoint.learning_rates, strict=True):
            group["lr"] = rate
        self.lr_scheduler.load_state_dict(self.checkpoint.scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.checkpoint.randomness.restore(self.args.device)


class Observer(TrainerCallback):
    """Follows a run step by step: keeps the losses, stops it when it diverges, reports and probes.

    reached: whether the run may end after a step, which is then probed whatever `probe_steps` are.
    """

    def __init__(
        self,
        probe_steps: Collection[int],
        probe: Callable[[int], None],
        progress: Callable[[int, float], None],
        losses: Iterable[float] = (),
        reached: Callable[[int], bool] = lambda step: False,
    ) -> None:
        """losses: of the steps that an earlier attempt has done."""
        self.probe_steps = frozenset(probe_steps)
        self.probe = probe
        self.progress = progress
        self.losses = list(losses)
        self.reached = reached

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Called after every optimiser step, and once more with totals at the end of the run."""
        if logs is None or "loss" not in logs:
            return
        for quantity, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            if not math.isfinite(logs[quantity]):
                raise TrainingDiverged(state.global_step, f"the {name} is {logs[quantity]}")
        self.losses.append(logs["loss"])
        self.progress(state.global_step, logs["loss"])
        if state.global_step < state.max_steps and self.reached(state.global_step):
            control.should_training_stop = True
        if control.should_training_stop or state.global_step in self.probe_steps:
            self.probe(state.global_step)


def mean_over_tokens(outputs: CausalLMOutput, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """A micro-batch's share of the loss of its optimiser step, in nats per scored token of the whole step.

    outputs: logits (batch, sequence, vocabulary); labels: (batch, sequence). Summed over its
    micro-batches a step's loss is the mean over all its tokens, however they fall into micro-batches;
    the losses that some models compute of themselves are means of means.
    """
    logits = outputs["logits"].float().flatten(0, 1)
    targets = pad(labels[:, 1:], (0, 1), value=UNSCORED).flatten()
    return cross_entropy(logits, targets, ignore_index=UNSCORED, reduction="sum") / num_items_in_batch


def training_arguments(
    recipe: Recipe, micro_batch: int, seed: int, device: torch.device, directory: Path
) -> TrainingArguments:
    """The recipe in Trainer's words; nothing is saved, printed or reported, and the loss is kept raw.

    micro_batch: sequences per forward pass. Raises ValueError unless it divides the recipe's batch size.
    """
    if recipe.batch_size % micro_batch:
        raise ValueError(f"micro-batches of {micro_batch} do not make up a batch of {recipe.batch_size}")
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=recipe.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=recipe.batch_size // micro_batch,
        optim="adamw_torch_fused",
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=recipe.warmup,
        max_grad_norm=recipe.max_grad_norm,
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if device.type != "cpu" and arguments.device != device:
        raise ValueError(
            f"the model is on {device}, but Trainer uses {arguments.device}; set CUDA_VISIBLE_DEVICES"
        )
    return arguments
