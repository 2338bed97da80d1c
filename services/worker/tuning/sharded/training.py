"""The training of one run by several processes, as the step's process conducts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import free_gpu_memory
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import CheckpointWriter, learning_parameters
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.randomness import RandomStates
from services.worker.tuning.sharded import messages
from services.worker.tuning.sharded.disk import system_errors
from services.worker.tuning.sharded.ranks import Ranks
from services.worker.tuning.sharded.start import (
    EXAMPLES,
    LARGE,
    Start,
    write_checkpoint,
    write_examples,
    write_model,
)
from services.worker.tuning.tasks import Task, TokenTask
from services.worker.tuning.updates import Learner
from shared.recipes import Recipe

GATHERED = "gathered.safetensors"


class ShardedTraining:
    """Has ranks train, and brings the weights into the model of this process where somebody looks at it.

    learner: the one to go on with.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        learner: Learner,
        recipe: Recipe,
        frozen: Frozen,
        *,
        seed: int,
        micro_batch: int,
        processes: int,
        device: torch.device,
        directory: Path,
    ) -> None:
        """learner: what the optimiser would work on here; directory: where files may be left."""
        self.language_model = language_model
        self.learner = replace(learner, as_deployed=self.as_deployed)
        self.deployed_here = learner.as_deployed
        self.directory = directory / "ranks"
        self.start = Start(
            recipe=recipe,
            frozen_blocks=frozen.blocks,
            frozen_parameters=frozen.parameters,
            learning=tuple(learning_parameters(learner.model)),
            seed=seed,
            micro_batch=micro_batch,
            processes=processes,
            device=device.type,
            attention=language_model.model.config._attn_implementation,
            bfloat16_forward=learner.bfloat16_forward,
            threads=max(1, torch.get_num_threads() // processes),
        )
        self.ranks: Ranks | None = None  # while they train
        self.is_current = True  # whether the model here has the weights that the ranks have

    @contextmanager
    def as_deployed(self) -> Iterator[None]:
        """See `Learner`."""
        self.bring()
        try:
            with self.deployed_here():
                yield
        finally:
            free_gpu_memory()  # the first rank has its share on the same GPU

    def bring(self) -> None:
        """Bring the weights that the ranks have learnt, unless they are here."""
        if self.is_current or self.ranks is None:
            return
        path = self.directory / GATHERED
        self.have_written(messages.GATHER, path=str(path))
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                self.put(name, file.get_tensor(name))
        path.unlink()
        self.is_current = True

    def have_written(self, kind: str, **content: Any) -> None:
        """Have the ranks write a file; raises OSError when it could not be."""
        assert self.ranks is not None  # noqa: S101 (they wait after a step)
        self.ranks.tell(kind, **content)
        said = self.ranks.hear()
        if said["message"] == messages.NOT_WRITTEN:
            raise OSError(said["number"], said["reason"])

    def put(self, name: str, values: torch.Tensor) -> None:
        """Have a parameter of the model here hold these values."""
        with torch.no_grad():
            self.learner.model.get_parameter(name).copy_(values)

    def checkpoint_writer(self, *settings: Any) -> CheckpointWriter:
        """What has the first rank write the checkpoints; see `CheckpointWriter`."""
        return RankCheckpointWriter(self, *settings)

    def train(
        self,
        task: Task,
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
        checkpoint: Checkpoint | None,
    ) -> int:
        """Have the ranks train to the end; returns tokens seen, padding not counted.

        callbacks: are told of every optimiser step as transformers' Trainer would tell them. Raises what
        they raise, MicroBatchTooLarge, FrozenWeightsChanged, RankFailed, and OSError where the disk fails.
        """
        assert isinstance(task, TokenTask)  # noqa: S101 (`check_can_be_sharded` refuses others)
        if checkpoint:
            for name, values in checkpoint.weights.items():
                self.put(name, values)
        with system_errors():
            self.write(task, checkpoint)
        free_gpu_memory()
        try:
            with Ranks(self.directory, self.start.processes) as self.ranks:
                while (said := self.ranks.hear())["message"] == messages.STEP:
                    self.is_current = False
                    self.forget()
                    self.follow(TrainerState(**said["state"]), said["logs"], arguments, callbacks)
        finally:
            self.ranks = None
        return int(said["tokens_seen"])

    def write(self, task: TokenTask, checkpoint: Checkpoint | None) -> None:
        """Write what the ranks begin with."""
        self.directory.mkdir()
        if checkpoint:
            write_checkpoint(checkpoint, self.directory)
        write_model(self.language_model, self.learner, self.directory)
        write_examples(task.training.examples, self.directory / EXAMPLES)
        self.start.write(self.directory)

    def forget(self) -> None:
        """Delete what no rank reads again once a step is done: nobody does when all are killed together."""
        for name in LARGE:
            (self.directory / name).unlink(missing_ok=True)

    def follow(
        self,
        state: TrainerState,
        logs: dict[str, float],
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        """Do what is to be done after an optimiser step, while the ranks wait, and let them go on."""
        assert self.ranks is not None  # noqa: S101 (they have just told of the step)
        is_last = state.global_step >= state.max_steps
        control = TrainerControl(should_training_stop=is_last)
        for callback in callbacks:
            callback.on_log(arguments, state, control, logs=logs)
        if control.should_training_stop:
            self.bring()
        self.ranks.tell(messages.GO_ON, stop=control.should_training_stop)


class RankCheckpointWriter(CheckpointWriter):
    """Has the first rank write the checkpoints."""

    def __init__(self, training: ShardedTraining, *settings: Any) -> None:
        super().__init__(*settings)
        self.training = training

    def write(self, state: TrainerState, randomness: RandomStates, trained: Mapping[str, Any]) -> None:
        self.training.have_written(messages.SAVE, path=str(self.path), around=asdict(self.around))
