"""The training run of one recipe, with probes at log-spaced steps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import set_seed

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.tuning.continuation import (
    UNINTERRUPTED,
    Continuation,
    description_of,
    learning_parameters,
)
from services.worker.tuning.dropout import without_dropout
from services.worker.tuning.errors import TrainingDiverged
from services.worker.tuning.fitting import check_recipe_fits
from services.worker.tuning.freezing import NOTHING, Frozen, unchanged_where_frozen
from services.worker.tuning.objectives import check_packing
from services.worker.tuning.randomness import deterministic_algorithms, undisturbed_randomness
from services.worker.tuning.sharded.support import check_processes
from services.worker.tuning.tasks import task_data
from services.worker.tuning.trainer import Observer, training_arguments
from services.worker.tuning.training import training_by
from services.worker.tuning.updates import Learner, trainable
from shared.recipes import Recipe, TextRecord, TrainingRecord, log_spaced_steps


@dataclass(frozen=True)
class TuningOutcome:
    """What a training run measured of itself; losses are in nats per scored token.

    losses: the training loss of every optimiser step; tokens_seen: tokens read, padding not counted;
    left_out: records, to train on or held out, whose completion did not fit the sequence length;
    shortened: records that lost the beginning of their prompt, or their last turns, to it;
    micro_batch: sequences per forward pass. A run that was resumed speaks of all its steps.
    """

    held_out_loss_before: float
    held_out_loss_after: float
    losses: tuple[float, ...]
    tokens_seen: int
    trained_parameters: int
    left_out: int
    shortened: int
    micro_batch: int


def tune(
    language_model: LanguageModel,
    recipe: Recipe,
    records: Sequence[TrainingRecord],
    *,
    replay: Sequence[TextRecord] = (),
    frozen: Frozen = NOTHING,
    seed: int,
    probe: Callable[[int], None],
    progress: Callable[[int, int, float | None], None],
    stopping: Callable[[int], None] = lambda step: None,
    finished: Callable[[], None] = lambda: None,
    workdir: Path,
    micro_batch: int | None = None,
    processes: int = 1,
    continuation: Continuation = UNINTERRUPTED,
    memory: GpuMemory | None = None,
) -> TuningOutcome:
    """Fine-tune by the recipe, call `probe` along the way, and leave the model bit for bit as it was.

    `probe(step)` runs at log-spaced steps, the last included, with the model as it would be deployed
    then: in evaluation mode and in its own dtype. `progress(step, steps, loss)` runs after every step.
    `stopping(step)` runs before the last probe where the recipe's held-out loss ends the run before its
    steps are done. `finished()` runs once at the end, even where all steps had been done before, with the
    model as deployed. None of them touches the run: the same seed gives the same weights bit for bit on the
    same machine, whatever a probe draws from random generators. Nothing is left in `workdir`.

    replay: the plain text to mix in, where the recipe asks for it.
    micro_batch: sequences per forward pass, a divisor of the batch size; by default the checkpoint's, or
    else the recipe's. It changes sums by rounding, and which units a dropout takes.
    processes: how many train together, each with its share of weights and optimiser's state; it changes sums
    by rounding, and which units a dropout takes. A checkpoint is of a run with as many.
    memory: told when held-out records must be scored in smaller batches than usual.

    A run that is left and resumed by way of `continuation` gives, bit for bit on the same machine, what
    it would have given in one go; only the steps after the checkpoint are reported and probed again.

    Raises UnusableTrainingData, RecipeDoesNotFit, TrainingDiverged, FrozenWeightsChanged, MicroBatchTooLarge,
    HandedOver, CheckpointUnusable (before the first step), TooFewGpus, RankFailed, and whatever `probe`,
    `progress` and `continuation` raise; the model is restored after any of them.
    """
    check_recipe_fits(language_model, recipe, frozen, processes)
    check_processes(language_model, processes)
    check_packing(language_model, recipe)
    memory = memory or GpuMemory()
    data = task_data(language_model, recipe, records, replay, seed)
    checkpoint = continuation.resume
    loss_before = (
        checkpoint.held_out_loss_before
        if checkpoint
        else finite(data.held_out_loss_before(language_model, memory), step=0)
    )
    micro_batch = micro_batch or (checkpoint.micro_batch if checkpoint else recipe.micro_batch)

    run = description_of(
        language_model,
        recipe,
        data.data_hashes,
        frozen=frozen,
        seed=seed,
        micro_batch=micro_batch,
        processes=processes,
    )
    device = language_model.device  # while its weights may be aside
    with (
        tempfile.TemporaryDirectory(dir=workdir) as directory,
        undisturbed_randomness(device),
        deterministic_algorithms(),
    ):
        set_seed(seed)
        with trainable(
            language_model, recipe.update, frozen, recipe.precision, aside=processes > 1
        ) as learner:
            run["parameters"] = learning_parameters(learner.model)
            if checkpoint:
                checkpoint.check_belongs_to(run)
            trained_parameters = learner.trained_parameters
            training = training_by(
                processes,
                language_model,
                learner,
                recipe,
                frozen,
                seed=seed,
                micro_batch=micro_batch,
                device=device,
                directory=Path(directory),
            )
            learner = training.learner
            as_learning, as_deployed = learning(language_model, learner), deployed(language_model, learner)
            task = data.from_start(language_model, as_learning, as_deployed, memory)

            def measured(step: int) -> float:
                return finite(task.held_out_loss(language_model, memory), step)

            def probe_deployed(step: int) -> None:
                with deployed(language_model, learner):
                    probe(step)

            def reached(step: int) -> bool:
                if recipe.early_stop_loss is None or step % recipe.early_stop_every:
                    return False
                with deployed(language_model, learner):
                    enough = measured(step=step) <= recipe.early_stop_loss
                if enough:
                    stopping(step)
                return enough

            observer = Observer(
                log_spaced_steps(recipe.steps, recipe.probe_count),
                probe_deployed,
                lambda step, loss: progress(step, recipe.steps, loss),
                losses=checkpoint.losses if checkpoint else (),
                reached=reached,
            )
            again = activations_computed_again if recipe.gradient_checkpointing else nullcontext
            without = nullcontext if task.dropout else without_dropout
            with unchanged_where_frozen(learner.model), again(language_model), without(learner.model):
                arguments = training_arguments(recipe, micro_batch, seed, device, Path(directory))
                writer = training.checkpoint_writer(continuation, run, loss_before, observer, Path(directory))
                tokens_seen = training.train(task, arguments, [observer, writer], checkpoint)
            with deployed(language_model, learner):
                loss_after = measured(step=len(observer.losses))
                finished()

    return TuningOutcome(
        held_out_loss_before=loss_before,
        held_out_loss_after=loss_after,
        losses=tuple(observer.losses),
        tokens_seen=tokens_seen,
        trained_parameters=trained_parameters,
        left_out=data.left_out,
        shortened=data.shortened,
        micro_batch=micro_batch,
    )


def finite(loss: float, step: int) -> float:
    """The held-out loss after `step`; raises TrainingDiverged when it is not a finite number."""
    if not math.isfinite(loss):  # JSON has no such number, and nothing could be compared with it
        raise TrainingDiverged(step, f"the held-out loss is {loss}")
    return loss


@contextmanager
def learning(language_model: LanguageModel, learner: Learner) -> Iterator[None]:
    """The model in the precision of a training step, but in evaluation mode; all randomness is kept aside."""
    casts = torch.autocast(language_model.device.type, torch.bfloat16, enabled=learner.bfloat16_forward)
    with undisturbed_randomness(language_model.device), casts:
        learner.model.eval()
        try:
            yield
        finally:
            learner.model.train()


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
def activations_computed_again(language_model: LanguageModel) -> Iterator[None]:
    """Keep none of the blocks' activations for the backward pass, which computes them again."""
    language_model.model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        language_model.model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
