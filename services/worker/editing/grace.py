"""GRACE: a codebook of edits beside one late MLP (Hartvigsen et al. 2023, arXiv 2211.11031).

The paper edits labels, and in a decoder the value of one token. Here every token of a target has an entry of
its own: its key is the MLP's input at the token after which it is predicted. Its value starts as what the
MLP puts out there (the publication starts from noise) and is learned until the target is predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.codebook import Codebook, Entries
from services.worker.editing.codebook_growth import Growth, grow
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.target_rows import start_rows, target_rows
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.taps import Tap
from shared.editors import GraceHyperparameters
from shared.edits import Edit

# An edit whose loss is below this is done (own: the publication makes all updates).
LOSS_THRESHOLD = 0.01


class Grace:
    """The editor `grace`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: GraceHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        batches = run.batches(language_model)
        [layer] = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        rows = [row for [row] in target_rows(language_model, edits)]
        work = WorkDone(run.progress, whole=len(rows) * (hyperparameters.n_iter + 1))
        states = read_states(language_model, rows, layer, batches, work)
        growth = grow([state.inputs for state in states], [row.target for row in rows], hyperparameters.eps)
        learning = Learning(
            language_model, rows, layer, growth, initial_values(states, growth), hyperparameters
        )
        losses: dict[int, list[float]] = {}
        for wave in growth.waves():

            def learn(chunk: Sequence[int], wave: list[int] = wave) -> None:
                with work.taken_back_on_failure():
                    losses.update(learning.learn([wave[place] for place in chunk], work))

            batches.run("edits were learned", [len(rows[edit].inputs) for edit in wave], learn)
        entries = Entries(growth.entries.keys.cpu(), growth.entries.radii.cpu())
        return EditOutcome(
            modification=Codebook(layer, entries, learning.values.cpu(), language_model.revision),
            edited_layers=(layer,),
            losses=tuple(tuple(losses[edit]) for edit in range(len(rows))),
        )


@dataclass(frozen=True)
class States:
    """What one edit's MLP takes and gives where its target is predicted.

    inputs: (target tokens, width); outputs: (target tokens, hidden), both float32.
    """

    inputs: Tensor
    outputs: Tensor


def read_states(
    language_model: LanguageModel,
    rows: Sequence[PromptedTarget],
    layer: int,
    batches: Batches,
    work: WorkDone,
) -> list[States]:
    """The states of every edit; raises EditFailed when they are not finite."""
    mlp = language_model.anatomy.mlps[layer]
    taps = [Tap(mlp, "input"), Tap(mlp, "output")]
    found: dict[int, States] = {}

    def read(chunk: Sequence[int]) -> None:
        batch, values = start_rows(language_model, [rows[index] for index in chunk], layer, taps)
        sizes = [len(rows[index].target) for index in chunk]
        inputs, outputs = (torch.split(values[tap][batch.predicting()].float(), sizes) for tap in taps)
        for index, taken, given in zip(chunk, inputs, outputs, strict=True):
            if not bool(taken.isfinite().all() and given.isfinite().all()):
                raise EditFailed(f"what the MLP of block {layer} takes or gives is not finite", index)
            found[index] = States(taken, given)
        work.advance(len(chunk))

    batches.run("prompts were read", [len(row.inputs) for row in rows], read)
    return [found[index] for index in range(len(rows))]


def initial_values(states: Sequence[States], growth: Growth) -> Tensor:
    """What the MLP puts out at the token that made each entry: (entries, hidden) float32."""
    return torch.stack([states[edit].outputs[position] for edit, position in growth.makers])


@dataclass(frozen=True)
class Learning:
    """The values of all entries, (entries, hidden) float32, which edits learn one batch after another."""

    language_model: LanguageModel
    rows: Sequence[PromptedTarget]
    layer: int
    growth: Growth
    values: Tensor
    hyperparameters: GraceHyperparameters

    def learn(self, edits: Sequence[int], work: WorkDone) -> dict[int, list[float]]:
        """Learn the values of the entries that these edits made; returns the losses of each edit.

        What an edit learns depends on no other edit of the batch. Where it shares the entry of an edit
        before it, that value stays as it is. work: advanced by `n_iter` per edit in all.
        """
        made = [entry for edit in edits for entry in self.growth.made_by(edit)]
        shared = sorted({entry for edit in edits for entry in self.growth.answering[edit]} - set(made))
        place_of = {entry: place for place, entry in enumerate([*made, *shared])}
        learned = self.values[made].requires_grad_()
        fixed = self.values[shared]
        optimiser = torch.optim.Adam([learned], lr=self.hyperparameters.edit_lr)
        batch, _ = start_rows(self.language_model, [self.rows[edit] for edit in edits], self.layer)
        mlp = self.language_model.anatomy.mlps[self.layer]
        running = list(edits)
        losses: dict[int, list[float]] = {edit: [] for edit in edits}
        found: dict[int, Tensor] = {}
        steps = self.hyperparameters.n_iter
        for step in range(steps):
            wanted = [place_of[entry] for edit in running for entry in self.growth.answering[edit]]
            with batch.predicted_from(self.language_model, mlp, torch.cat([learned, fixed])[wanted]):
                loss = batch.surprise(self.language_model)
            done = []
            for edit, value in zip(running, loss.tolist(), strict=True):
                if not math.isfinite(value):
                    raise EditFailed(f"the loss of its values is {value} at step {step}", edit)
                losses[edit].append(value)
                own = self.growth.made_by(edit)
                done.append(value < LOSS_THRESHOLD or step == steps - 1 or not own)
                if done[-1]:
                    found.update({entry: learned[place_of[entry]].detach().clone() for entry in own})
            work.advance(sum(steps - step if is_done else 1 for is_done in done))
            if all(done):
                break
            # Edits that are done take part in this step too, but their values have been taken already.
            optimiser.zero_grad()
            torch.autograd.backward(loss.sum())
            optimiser.step()
            if any(done):
                left = [number for number, is_done in enumerate(done) if not is_done]
                running, batch = [running[number] for number in left], batch.keep(left)
        for entry, value in found.items():
            self.values[entry] = value
        return losses
