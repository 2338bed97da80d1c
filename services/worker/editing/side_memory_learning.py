"""Learning a side memory: all edits of a shard take each step together (WISE, section 2.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.worker.editing.activation_margins import Margins, distances
from services.worker.editing.editor import EditFailed
from services.worker.editing.side_memory import Projection
from services.worker.editing.target_rows import RowBatch, start_rows
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.taps import Tap
from shared.editors import WiseHyperparameters

# A shard whose loss is below this is done (own: the publication stops when losses no longer fall).
LOSS_THRESHOLD = 0.01


@dataclass(frozen=True)
class EditRow:
    """A row and the edit that it asks for."""

    edit: int
    row: PromptedTarget


@dataclass(frozen=True)
class Started:
    """Rows that were run up to the block: the batch, and what its down-projection takes where targets are
    predicted, (target tokens, d_ff) in the model's dtype."""

    batch: RowBatch
    activations: Tensor


@dataclass(frozen=True)
class Learning:
    """What the shards have in common.

    main: the model's own down-projection in block `layer`; irrelevant: what it takes at the tokens of texts
    that have nothing to do with any edit, (tokens, d_ff) float32.
    """

    language_model: LanguageModel
    layer: int
    main: Projection
    irrelevant: Tensor
    hyperparameters: WiseHyperparameters
    batches: Batches
    work: WorkDone

    @property
    def path(self) -> str:
        return self.language_model.anatomy.mlp_down_projections[self.layer]

    def learn(self, rows: Sequence[EditRow], mask: Tensor) -> tuple[Tensor, list[float]]:
        """Learn one shard's change of the main memory, (hidden, d_ff) float32, zero outside the mask.

        Adam stands for the publication's plain gradient descent, in which one edit has its way at a time.
        Returns the change, and the loss before each update. The work is advanced by `n_iter` per row in all.
        """
        settings = self.hyperparameters
        change = torch.zeros_like(self.main.weight, dtype=torch.float32, requires_grad=True)
        optimiser = torch.optim.Adam([change], lr=settings.edit_lr)
        shard = Shard(self, rows)
        losses: list[float] = []
        for step in range(settings.n_iter):
            loss, gradient = shard.descent(change)
            if loss < LOSS_THRESHOLD:
                self.work.advance(len(rows) * (settings.n_iter - step))
                break
            losses.append(loss)
            change.grad = gradient * mask
            optimiser.step()
            with torch.no_grad():
                change.clamp_(-settings.norm_constraint, settings.norm_constraint)
            self.work.advance(len(rows))
        return change.detach(), losses

    def start(self, rows: Sequence[EditRow]) -> Started:
        """Run rows up to the block."""
        tap = Tap(self.path, "input")
        batch, read = start_rows(self.language_model, [row.row for row in rows], self.layer, [tap])
        return Started(batch, read[tap][batch.predicting()])

    def losses(self, started: Started, change: Tensor) -> Tensor:
        """Per row, the surprise at its target, read from the side memory, and how far it falls short of the
        margins, the mean over the target's tokens: (rows,) float32."""
        margins = margins_of(self.hyperparameters)
        side = Projection((self.main.weight.float() + change).to(self.main.weight.dtype), self.main.bias)
        put_out = side(started.activations)
        with started.batch.predicted_from(self.language_model, self.path, put_out):
            surprise = started.batch.surprise(self.language_model)
        short = margins.shortfall(
            distances(change, started.activations.float()), distances(change, self.irrelevant)
        )
        sizes = [len(row.target) for row in started.batch.rows]
        return surprise + torch.stack([of_row.mean() for of_row in torch.split(short, sizes)])


@dataclass(frozen=True)
class Shard:
    """The rows of some edits, and those batches of them that have been started."""

    learning: Learning
    rows: Sequence[EditRow]
    started: dict[tuple[int, ...], Started] = field(default_factory=dict)

    def descent(self, change: Tensor) -> tuple[float, Tensor]:
        """The loss of a change, the mean over rows and the excess of irrelevant tokens, and its gradient.

        Raises EditFailed when the loss of an edit is not finite.
        """
        excess = margins_of(self.learning.hyperparameters).excess(distances(change, self.learning.irrelevant))
        [gradient] = torch.autograd.grad(excess, change)
        total = excess.item()

        def add(chosen: Sequence[int]) -> None:
            nonlocal total
            key = tuple(chosen)
            # Taken out and put back: what does not fit into memory must not stay in it.
            started = self.started.pop(key, None) or self.learning.start([self.rows[row] for row in chosen])
            losses = self.learning.losses(started, change)
            for row, value in zip(chosen, losses.tolist(), strict=True):
                if not math.isfinite(value):
                    raise EditFailed(f"its loss is {value}", self.rows[row].edit)
            loss = losses.sum() / len(self.rows)
            gradient.add_(torch.autograd.grad(loss, change)[0])
            total += loss.item()
            self.started[key] = started

        lengths = [len(row.row.inputs) for row in self.rows]
        self.learning.batches.run("edits were learned", lengths, add)
        return total, gradient


def margins_of(hyperparameters: WiseHyperparameters) -> Margins:
    return Margins(hyperparameters.alpha, hyperparameters.beta, hyperparameters.gamma)
