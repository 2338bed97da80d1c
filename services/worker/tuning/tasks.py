"""What the objective of a recipe comes to: data to train on, and a loss on what is held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.tuning.direct_preference import (
    PreferenceTrainer,
    ReferencedPairs,
    collate_referenced,
    mean_preference_loss,
    pair_log_probs,
)
from services.worker.tuning.errors import TrainingDiverged
from services.worker.tuning.held_out_loss import held_out_loss
from services.worker.tuning.objectives import (
    PreferenceDataset,
    TokenDataset,
    collate,
    preference_pairs,
    training_and_held_out,
)
from services.worker.tuning.trainer import PlainTrainer, mean_over_tokens
from shared.recipes import Objective, PreferenceRecord, Recipe, TextRecord, TrainingRecord
from shared.training_data import split_held_out


class Task(Protocol):
    """What a model that is ready to learn is trained on; dropout: whether it has any while learning."""

    @property
    def dropout(self) -> bool: ...

    def held_out_loss(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        """Mean loss on what is held out, in nats; the model is to be in evaluation mode."""

    def trainer(self, language_model: LanguageModel, **settings: Any) -> PlainTrainer:
        """A trainer on what is to be trained on; settings: all that does not follow from the task."""


class TaskData(Protocol):
    """What the records of a recipe come to, before there is a model that is ready to learn.

    data_hashes: of what is trained on and of what is held out; left_out: records that did not fit;
    shortened: records of which a part did not.
    """

    @property
    def data_hashes(self) -> list[str]: ...

    @property
    def left_out(self) -> int: ...

    @property
    def shortened(self) -> int: ...

    def held_out_loss_before(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        """Mean loss on what is held out before any tuning, in nats; the model is to be in evaluation mode."""

    def from_start(
        self,
        language_model: LanguageModel,
        learning: AbstractContextManager[None],
        deployed: AbstractContextManager[None],
        memory: GpuMemory,
    ) -> Task:
        """The task of the model that is ready to learn, at the very start of its training.

        learning, deployed: contexts in which it is in evaluation mode, as training steps and as probes have
        it. Raises TrainingDiverged when the start is of no use.
        """


Dataset = TypeVar("Dataset", TokenDataset, PreferenceDataset)


@dataclass(frozen=True)
class TrainingAndHeldOut(Generic[Dataset]):
    """The two sides of a recipe's records; what `TaskData` says of them."""

    training: Dataset
    held_out: Dataset

    @property
    def data_hashes(self) -> list[str]:
        return [self.training.content_hash, self.held_out.content_hash]

    @property
    def left_out(self) -> int:
        return self.training.left_out + self.held_out.left_out

    @property
    def shortened(self) -> int:
        return self.training.shortened + self.held_out.shortened


@dataclass(frozen=True)
class TokenTask(TrainingAndHeldOut[TokenDataset]):
    """Token by token, data and task in one; losses are in nats per scored token."""

    dropout: bool = True

    def held_out_loss_before(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        return self.held_out_loss(language_model, memory)

    def from_start(
        self,
        language_model: LanguageModel,
        learning: AbstractContextManager[None],
        deployed: AbstractContextManager[None],
        memory: GpuMemory,
    ) -> TokenTask:
        return self

    def held_out_loss(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        return held_out_loss(language_model, self.held_out, memory=memory)

    def trainer(self, language_model: LanguageModel, **settings: Any) -> PlainTrainer:
        return PlainTrainer(
            data_collator=partial(collate, pad_token_id=language_model.pad_token_id),
            train_dataset=self.training,
            compute_loss_func=mean_over_tokens,
            **settings,
        )


@dataclass(frozen=True)
class PreferenceTask:
    """Pairs of answers, against the model that the tuning starts from; losses are in nats per pair.

    There is no dropout, as usual with this objective: it would be a difference from the reference that was
    not learnt.
    """

    training: ReferencedPairs
    held_out: ReferencedPairs
    beta: float
    dropout: bool = False

    def held_out_loss(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        return mean_preference_loss(language_model, self.held_out, self.beta, memory)

    def trainer(self, language_model: LanguageModel, **settings: Any) -> PlainTrainer:
        trainer = PreferenceTrainer(
            data_collator=partial(collate_referenced, pad_token_id=language_model.pad_token_id),
            train_dataset=self.training,
            **settings,
        )
        trainer.beta = self.beta
        return trainer


@dataclass(frozen=True)
class PreferenceData(TrainingAndHeldOut[PreferenceDataset]):
    """Pairs of answers, before there is a model to hold them against."""

    beta: float

    def held_out_loss_before(self, language_model: LanguageModel, memory: GpuMemory) -> float:
        return math.log(2)  # of any model against itself

    def from_start(
        self,
        language_model: LanguageModel,
        learning: AbstractContextManager[None],
        deployed: AbstractContextManager[None],
        memory: GpuMemory,
    ) -> PreferenceTask:
        """The references are what the start says in the precision of each comparison.

        Rated in another one, or without its quantisation, the start would differ from itself.
        """
        with learning:
            of_training = pair_log_probs(language_model, self.training, memory=memory)
        with deployed:
            of_held_out = pair_log_probs(language_model, self.held_out, memory=memory)
        if not (of_training.isfinite().all() and of_held_out.isfinite().all()):
            raise TrainingDiverged(0, "the log-probability of an answer is not a finite number")
        return PreferenceTask(
            ReferencedPairs(self.training, of_training),
            ReferencedPairs(self.held_out, of_held_out),
            self.beta,
        )


def task_data(
    language_model: LanguageModel,
    recipe: Recipe,
    records: Sequence[TrainingRecord],
    replay: Sequence[TextRecord],
    seed: int,
) -> TaskData:
    """What the recipe has the model learn. Raises UnusableTrainingData when one side has nothing to."""
    tokenizer = language_model.tokenizer
    if recipe.objective is not Objective.PREFERENCE:
        return TokenTask(*training_and_held_out(recipe, tokenizer, records, replay, seed))
    training, held_out = (
        preference_pairs(
            tokenizer,
            [record for record in side if isinstance(record, PreferenceRecord)],
            recipe.sequence_length,
        )
        for side in split_held_out(records, recipe.data.held_out_share)
    )
    return PreferenceData(training, held_out, recipe.beta)
