"""The training run of one recipe, with probes at log-spaced steps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import (
    UNINTERRUPTED,
    CheckpointWriter,
    Continuation,
    description_of,
    learning_parameters,
)
from services.worker.tuning.errors import RecipeDoesNotFit, TrainingDiverged
from services.worker.tuning.freezing import unchanged_where_frozen
from services.worker.tuning.held_out_loss import held_out_loss
from services.worker.tuning.objectives import TokenDataset, collate, token_dataset
from services.worker.tuning.randomness import deterministic_algorithms, undisturbed_randomness
from services.worker.tuning.trainer import (
    AutocastTrainer,
    Observer,
    PlainTrainer,
    mean_over_tokens,
    training_arguments,
)
from services.worker.tuning.updates import Learner, trainable
from shared.recipes import InstructionRecord, Recipe, TextRecord, log_spaced_steps
from shared.training_data import split_held_out


@dataclass(frozen=True)
class TuningOutcome:
    """What a training run measured of itself; losses are in nats per scored token.

    losses: the training loss of every optimiser step; tokens_seen: tokens read, padding not counted;
    left_out: records, to train on or held out, whose completion did not fit the sequence length;
    micro_batch: sequences per forward pass. A run that was resumed speaks of all its steps.
    """

    held_out_loss_before: float
    held_out_loss_after: float
    losses: tuple[float, ...]
    tokens_seen: int
    trained_parameters: int
    left_out: int
    micro_batch: int


def tune(
    language_model: LanguageModel,
    recipe: Recipe,
    records: Sequence[TextRecord | InstructionRecord],
    *,
    frozen_blocks: Sequence[int],
    seed: int,
    probe: Callable[[int], None],
    progress: Callable[[int, int, float | None], None],
    workdir: Path,
    micro_batch: int | None = None,
    continuation: Continuation = UNINTERRUPTED,
    memory: GpuMemory | None = None,
) -> TuningOutcome:
    """Fine-tune by the recipe, call `probe` along the way, and leave the model bit for bit as it was.

    `probe(step)` runs at log-spaced steps, the last included, with the model as it would be deployed
    then: in evaluation mode and in its own dtype. `progress(step, steps, loss)` runs after every step.
    Neither touches the run: the same seed gives the same weights bit for bit on the same machine,
    whatever a probe draws from random generators. Nothing is left in `workdir`.

    micro_batch: sequences per forward pass, a divisor of the batch size; by default the checkpoint's, or
    else the whole batch. It changes sums by rounding, and which units a dropout takes.
    memory: told when held-out records must be scored in smaller batches than usual.

    A run that is left and resumed by way of `continuation` gives, bit for bit on the same machine, what
    it would have given in one go; only the steps after the checkpoint are reported and probed again.

    Raises UnusableTrainingData, RecipeDoesNotFit, TrainingDiverged, FrozenWeightsChanged, MicroBatchTooLarge,
    HandedOver, CheckpointUnusable (before the first step), and whatever `probe`, `progress` and
    `continuation` raise; the model is restored after any of them.
    """
    check_positions(language_model, recipe.sequence_length)
    training_records, held_out_records = split_held_out(records, recipe.data.held_out_share)
    training, held_out = (
        token_dataset(recipe.objective, language_model.tokenizer, side, recipe.sequence_length)
        for side in (training_records, held_out_records)
    )
    checkpoint = continuation.resume
    measured = partial(finite_held_out_loss, language_model, held_out, memory or GpuMemory())
    loss_before = checkpoint.held_out_loss_before if checkpoint else measured(step=0)
    micro_batch = micro_batch or (checkpoint.micro_batch if checkpoint else recipe.batch_size)

    run = description_of(
        language_model,
        recipe,
        (training, held_out),
        frozen_blocks=frozen_blocks,
        seed=seed,
        micro_batch=micro_batch,
    )
    with (
        tempfile.TemporaryDirectory(dir=workdir) as directory,
        undisturbed_randomness(language_model.device),
        deterministic_algorithms(),
    ):
        set_seed(seed)
        with trainable(language_model, recipe.update, frozen_blocks) as learner:
            run["parameters"] = learning_parameters(learner.model)
            if checkpoint:
                checkpoint.check_belongs_to(run)
            trained_parameters = learner.trained_parameters

            def probe_deployed(step: int) -> None:
                with deployed(language_model, learner):
                    probe(step)

            observer = Observer(
                log_spaced_steps(recipe.steps, recipe.probe_count),
                probe_deployed,
                lambda step, loss: progress(step, recipe.steps, loss),
                losses=checkpoint.losses if checkpoint else (),
            )
            with unchanged_where_frozen(learner.model):
                tokens_seen = train(
                    language_model,
                    learner,
                    training,
                    training_arguments(recipe, micro_batch, seed, language_model.device, Path(directory)),
                    [observer, CheckpointWriter(continuation, run, loss_before, observer, Path(directory))],
                    checkpoint,
                )
            with deployed(language_model, learner):
                loss_after = measured(step=recipe.steps)

    return TuningOutcome(
        held_out_loss_before=loss_before,
        held_out_loss_after=loss_after,
        losses=tuple(observer.losses),
        tokens_seen=tokens_seen,
        trained_parameters=trained_parameters,
        left_out=training.left_out + held_out.left_out,
        micro_batch=micro_batch,
    )


def train(
    language_model: LanguageModel,
    learner: Learner,
    dataset: TokenDataset,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    checkpoint: Checkpoint | None,
) -> int:
    """Run the optimiser, from the checkpoint on if there is one; returns tokens seen, padding not counted."""
    kind = AutocastTrainer if learner.bfloat16_forward else PlainTrainer
    with cache_setting_kept(language_model):
        trainer = kind(
            model=learner.model,
            args=arguments,
            data_collator=partial(collate, pad_token_id=language_model.pad_token_id),
            train_dataset=dataset,
            compute_loss_func=mean_over_tokens,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        if checkpoint:
            trainer.resume(checkpoint)
        else:
            trainer.train()
    return int(trainer.state.num_input_tokens_seen)


def finite_held_out_loss(
    language_model: LanguageModel, held_out: TokenDataset, memory: GpuMemory, step: int
) -> float:
    """The held-out loss after `step`; raises TrainingDiverged when it is not a finite number."""
    loss = held_out_loss(language_model, held_out, memory=memory)
    if not math.isfinite(loss):  # JSON has no such number, and nothing could be compared with it
        raise TrainingDiverged(step, f"the held-out loss is {loss}")
    return loss


@contextmanager
def deployed(language_model: LanguageModel, learner: Learner) -> Iterator[None]:
    """The model as it would be deployed at this moment, with all the randomness of the run kept aside."""
    with learner.as_deployed(), undisturbed_randomness(language_model.device):
        learner.model.eval()
        try:
            yield
        finally:
            learner.model.train()


@contextmanager
def cache_setting_kept(language_model: LanguageModel) -> Iterator[None]:
    """Trainer turns the key-value cache off in the model's configuration; put the setting back."""
    configuration = language_model.model.config
    before = configuration.use_cache
    try:
        yield
    finally:
        configuration.use_cache = before


def check_positions(language_model: LanguageModel, sequence_length: int) -> None:
    """Raise RecipeDoesNotFit when sequences would be longer than the model's positions reach."""
    configuration = language_model.model.config.get_text_config(decoder=True)
    positions = getattr(configuration, "max_position_embeddings", None)
    if positions is not None and sequence_length > positions:
        raise RecipeDoesNotFit(f"sequence_length {sequence_length} exceeds the model's {positions} positions")
