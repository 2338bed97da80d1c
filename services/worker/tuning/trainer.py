"""transformers' Trainer, set up to train on one device and do nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.worker.tuning.errors import TrainingDiverged
from shared.recipes import Recipe

# Recipe schedule → transformers' name; its "constant" is the one that knows no warm-up.
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class PlainTrainer(Trainer):
    """Trainer without its count of floating-point operations, which walks all parameters at every step."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


class AutocastTrainer(PlainTrainer):
    """Runs the forward pass in bfloat16 where that is safe, as mixed-precision training does."""

    def compute_loss_context_manager(self) -> ExitStack:
        stack = super().compute_loss_context_manager()
        stack.enter_context(torch.autocast(self.args.device.type, torch.bfloat16))
        return stack


class Observer(TrainerCallback):
    """Follows a run step by step: keeps the losses, stops it when it diverges, reports and probes."""

    def __init__(
        self,
        probe_steps: Collection[int],
        probe: Callable[[int], None],
        progress: Callable[[int, float], None],
    ) -> None:
        self.probe_steps = frozenset(probe_steps)
        self.probe = probe
        self.progress = progress
        self.losses: list[float] = []

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
        if state.global_step in self.probe_steps:
            self.probe(state.global_step)


def training_arguments(recipe: Recipe, seed: int, device: torch.device, directory: Path) -> TrainingArguments:
    """The recipe in Trainer's words; nothing is saved, printed or reported, and the loss is kept raw."""
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        optim="adamw_torch",
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=recipe.warmup_steps,
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
