"""The training of one run, by this process alone or by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import CheckpointWriter
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.sharded.training import ShardedTraining
from services.worker.tuning.tasks import Task
from services.worker.tuning.updates import Learner
from shared.recipes import Recipe


class TrainingAlone:
    """Trains in this process; what `ShardedTraining` is for several."""

    def __init__(self, language_model: LanguageModel, learner: Learner) -> None:
        self.language_model = language_model
        self.learner = learner

    def checkpoint_writer(self, *settings: Any) -> CheckpointWriter:
        """See `CheckpointWriter`."""
        return CheckpointWriter(*settings)

    def train(
        self,
        task: Task,
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
        checkpoint: Checkpoint | None,
    ) -> int:
        """Run the optimiser, from the checkpoint on if there is one; returns tokens seen, without padding."""
        learner = self.learner
        with cache_setting_kept(self.language_model):
            trainer = task.trainer(
                self.language_model, model=learner.model, args=arguments, callbacks=list(callbacks)
            )
            trainer.bfloat16_forward = learner.bfloat16_forward
            trainer.remove_callback(PrinterCallback)
            if checkpoint:
                trainer.resume(checkpoint)
            else:
                trainer.train()
        return int(trainer.state.num_input_tokens_seen)


def training_by(
    processes: int,
    language_model: LanguageModel,
    learner: Learner,
    recipe: Recipe,
    frozen: Frozen,
    *,
    seed: int,
    micro_batch: int,
    device: torch.device,
    directory: Path,
) -> TrainingAlone | ShardedTraining:
    """The training by so many processes; see `ShardedTraining` for the rest."""
    if processes == 1:
        return TrainingAlone(language_model, learner)
    return ShardedTraining(
        language_model,
        learner,
        recipe,
        frozen,
        seed=seed,
        micro_batch=micro_batch,
        processes=processes,
        device=device,
        directory=directory,
    )


@contextmanager
def cache_setting_kept(language_model: LanguageModel) -> Iterator[None]:
    """Trainer turns the key-value cache off in the model's configuration; put the setting back."""
    configuration = language_model.model.config
    before = configuration.use_cache
    try:
        yield
    finally:
        configuration.use_cache = before
