"""Training MEND's hypernetwork: edits must take, also rephrased, and what was not edited must stay.

Each update applies a few training edits together and descends the loss of the edited model (Mitchell et al.
2022, eq. 4 and algorithm 1). The model's own weights are not touched: what is added stands beside them.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.edit_gradients import collect_factors
from services.worker.editing.editor import EditFailed
from services.worker.editing.gradient_factors import Factors, mlp_weights
from services.worker.editing.hypernetwork import Hypernetwork
from services.worker.editing.lessons import Lesson, fitting_lessons, groups, rephrased, unrelated
from services.worker.editing.update_trial import Trial
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from shared.editors import MendHyperparameters
from shared.editors.mend import MOST_EDITS_AT_ONCE
from shared.edits import Edit
from shared.training_edits import FEWEST_TRAINING_EDITS

LARGEST_GRADIENT_NORM = 1.0
OBSERVED_AT_ONCE = 64
HELD_OUT = 5  # at most one lesson in so many, and no more than are taught at once
EXAMINATIONS = 10


class TooFewTrainingEdits(Exception):
    """Not enough edits to learn from that the model can read."""

    def __init__(self, found: int) -> None:
        super().__init__(f"{found} edits to be trained on fit the model; {FEWEST_TRAINING_EDITS} are needed")
        self.found = found


@dataclass(frozen=True)
class TrainedHypernetwork:
    """What came of a training.

    edit_losses, divergences: before each update, in nats per token. examined: the whole loss on edits held
    out, each time it was taken; the network is the one of the least.
    """

    hypernetwork: Hypernetwork
    edit_losses: tuple[float, ...]
    divergences: tuple[float, ...]
    examined: tuple[float, ...]


def train_hypernetwork(
    language_model: LanguageModel,
    edits: Sequence[Edit],
    hyperparameters: MendHyperparameters,
    *,
    edits_to_make: int = MOST_EDITS_AT_ONCE,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> TrainedHypernetwork:
    """Learn from these edits, which must not be the ones that are to be made, to edit this model.

    edits_to_make: how many will be made with it at once, which is what it is trained for. Raises
    TooFewTrainingEdits, OutOfGpuMemory, and EditFailed when the training diverges.
    """
    draws = random.Random(hyperparameters.seed)  # noqa: S311 (a draw to be repeated, nothing secret)
    chosen = draws.sample(list(edits), min(len(edits), hyperparameters.training_edits))
    lessons = fitting_lessons(language_model, chosen)
    if len(lessons) < FEWEST_TRAINING_EDITS:
        raise TooFewTrainingEdits(len(lessons))
    at_once = hyperparameters.group_size(edits_to_make)
    held_out = min(at_once, len(lessons) // HELD_OUT)
    hypernetwork = Hypernetwork(
        mlp_weights(language_model, hyperparameters.edited_layers(len(language_model.anatomy.blocks))),
        language_model.revision,
        hyperparameters.rank,
        hyperparameters.edit_lr,
        torch.Generator().manual_seed(hyperparameters.seed),
    ).to(language_model.device)
    school = School(
        language_model,
        hypernetwork,
        lessons[held_out:],
        lessons[:held_out],
        at_once,
        hyperparameters,
        Batches(language_model.token_budget, memory or GpuMemory()),
        WorkDone(progress, whole=len(lessons) - held_out + hyperparameters.training_steps),
    )
    return school.train(draws)


class School:
    """A hypernetwork and the lessons it is taught, a few of which are held out to tell when it was best."""

    def __init__(
        self,
        language_model: LanguageModel,
        hypernetwork: Hypernetwork,
        lessons: Sequence[Lesson],
        held_out: Sequence[Lesson],
        at_once: int,
        hyperparameters: MendHyperparameters,
        batches: Batches,
        work: WorkDone,
    ) -> None:
        self.language_model, self.hypernetwork = language_model, hypernetwork
        self.lessons, self.held_out, self.at_once = lessons, held_out, at_once
        self.hyperparameters, self.batches, self.work = hyperparameters, batches, work

    def train(self, draws: random.Random) -> TrainedHypernetwork:
        """Go through the lessons; the network becomes what it was when the held-out ones went best."""
        settings, network = self.hyperparameters, self.hypernetwork
        network.normalise_by(self.observed())
        optimiser = torch.optim.Adam(network.parameters(), lr=settings.training_lr)
        losses: list[tuple[float, float]] = []
        examined: list[float] = []
        best: dict[str, Tensor] = {}
        for group in groups(self.lessons, self.at_once, settings.training_steps, draws):
            optimiser.zero_grad()
            losses.append(self.teach(group, draws))
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT_NORM)
            optimiser.step()
            if is_due(len(losses), settings.training_steps):
                examined.append(self.examine())
                if examined[-1] == min(examined):
                    best = {name: value.clone() for name, value in network.state_dict().items()}
            self.work.advance(1)
        network.load_state_dict(best)
        edit_losses, divergences = zip(*losses, strict=True)
        return TrainedHypernetwork(network.requires_grad_(False), edit_losses, divergences, tuple(examined))

    def observed(self) -> Iterator[Mapping[str, Factors]]:
        """The factors of all training edits, some at a time."""
        for first in range(0, len(self.lessons), OBSERVED_AT_ONCE):
            seen = self.lessons[first : first + OBSERVED_AT_ONCE]
            yield self.factors(seen)
            self.work.advance(len(seen))

    def teach(self, group: Sequence[Lesson], draws: random.Random) -> tuple[float, float]:
        """Leave on the network the gradient of one update's loss; returns its two parts."""
        trial = Trial(self.language_model, self.hypernetwork(self.factors(group)), self.batches)
        losses = self.losses(trial, group, draws)
        trial.backpropagate()
        return losses

    def examine(self) -> float:
        """The whole loss when the held-out edits are made, with the same draws each time."""
        factors = self.factors(self.held_out)
        with torch.no_grad():
            updates = self.hypernetwork(factors)
        draws = random.Random(self.hyperparameters.seed)  # noqa: S311 (a draw to be repeated)
        trial = Trial(self.language_model, updates, self.batches)
        edit_loss, divergence = self.losses(trial, self.held_out, draws)
        return self.hyperparameters.edit_loss_weight * edit_loss + divergence

    def losses(self, trial: Trial, group: Sequence[Lesson], draws: random.Random) -> tuple[float, float]:
        """The loss of the group's edits, and the divergence for other subjects.

        Raises EditFailed when one is not finite.
        """
        edit_loss = trial.edit_loss(rephrased(group, draws), self.hyperparameters.edit_loss_weight)
        divergence = trial.divergence(unrelated(group, self.lessons, draws))
        if not math.isfinite(edit_loss + divergence):
            raise EditFailed("the training of the hypernetwork diverged")
        return edit_loss, divergence

    def factors(self, group: Sequence[Lesson]) -> dict[str, Factors]:
        """The factors of the gradient that a group's edits ask for."""
        cases = [lesson.learnt[0] for lesson in group]
        return collect_factors(self.language_model, self.hypernetwork.weights, cases, self.batches)


def is_due(step: int, steps: int) -> bool:
    """Whether the held-out lessons are examined after this update: a few times, evenly, and at the end."""
    return step % math.ceil(steps / EXAMINATIONS) == 0 or step == steps
