"""The target vectors z: what a block must put out at the subject's last token for each edit to hold.

Every edit is its own problem (its loss, its clamp, its end); they only share the forward and backward
passes. Source: MEMIT (Meng et al. 2023), eq. 16, after ROME (Meng et al. 2022), eq. 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed
from services.worker.editing.running_edits import RunningEdits, start_running
from services.worker.editing.target_requests import TargetRequest
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.taps import (
    blocks_return_tuples,
    head_reading,
    replayed_blocks,
)
from shared.editors import TargetHyperparameters

# An edit whose loss is below this is done (the references' constant).
LOSS_THRESHOLD = 0.05


@dataclass(frozen=True)
class TargetVectors:
    """What the optimisation found.

    vectors: z, (edits, hidden) float32. losses: per edit, at each evaluation; all but the last of them were
    followed by an update.
    """

    vectors: Tensor
    losses: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class OptimisedEdit:
    """One edit's z, (hidden,) float32, and its loss at each evaluation."""

    vector: Tensor
    losses: Sequence[float]


def optimise_targets(
    language_model: LanguageModel,
    requests: Sequence[TargetRequest],
    layer: int,
    hyperparameters: TargetHyperparameters,
    *,
    batches: Batches,
    work: WorkDone,
) -> TargetVectors:
    """Find z for the output of block `layer`, for all edits together.

    Only the blocks above `layer` run at each step. batches: more edits than fit at once are done one chunk
    after another. work: advanced by `v_num_grad_steps` per row of every edit in all. Raises EditFailed when
    a loss is not finite.
    """
    rows = [request.rows() for request in requests]
    in_tuple = blocks_return_tuples(language_model.model, language_model.anatomy)
    found: dict[int, OptimisedEdit] = {}

    def optimise(chunk: Sequence[int]) -> None:
        chosen = [requests[index] for index in chunk]
        running = start_running(language_model, list(chunk), chosen, layer, in_tuple)
        with work.taken_back_on_failure():
            found.update(optimise_chunk(language_model, running, hyperparameters, work))

    batches.run(
        "edits were optimised",
        [max(len(row) for row in of_edit) for of_edit in rows],
        optimise,
        rows=[len(of_edit) for of_edit in rows],
    )
    in_order = [found[index] for index in range(len(requests))]
    return TargetVectors(
        torch.stack([edit.vector for edit in in_order]), tuple(tuple(edit.losses) for edit in in_order)
    )


def optimise_chunk(
    language_model: LanguageModel,
    running: RunningEdits,
    hyperparameters: TargetHyperparameters,
    work: WorkDone,
) -> dict[int, OptimisedEdit]:
    """Descend for the edits of one batch until each is done; returns what was found by edit."""
    steps = hyperparameters.v_num_grad_steps
    initial = running.initial_vectors()  # v0, (edits, hidden)
    change = torch.zeros_like(initial, requires_grad=True)  # δ
    optimiser = torch.optim.Adam([change], lr=hyperparameters.v_lr)
    places = torch.arange(len(initial), device=initial.device)  # of the edits still running
    reference: Tensor | None = None
    vectors: dict[int, Tensor] = {}
    losses: dict[int, list[float]] = {index: [] for index in running.indices}
    rows_per_edit = running.rows_per_edit
    for step in range(steps):
        target_loss, essence = predict(language_model, running, change[places])
        reference = essence.detach() if reference is None else reference
        loss = (
            target_loss
            + hyperparameters.kl_factor * divergence(essence, reference[places])
            + hyperparameters.v_weight_decay * size_penalty(change[places], initial[places])
        )
        done = []
        for index, place, value in zip(running.indices, places.tolist(), loss.tolist(), strict=True):
            if not math.isfinite(value):
                raise EditFailed(f"the loss of its target vector is {value} at step {step}", index)
            losses[index].append(value)
            done.append(value < LOSS_THRESHOLD or step == steps - 1)
            if done[-1]:
                vectors[index] = (initial[place] + change[place]).detach()
        work.advance(rows_per_edit * sum(steps - step if is_done else 1 for is_done in done))
        if all(done):
            break
        # Edits that are done take part in this step too, but their vectors have been taken already.
        optimiser.zero_grad()
        torch.autograd.backward(loss.sum())
        optimiser.step()
        clamp_norm(change, initial, hyperparameters.clamp_norm_factor)
        if any(done):
            left = [number for number, is_done in enumerate(done) if not is_done]
            running, places = running.keep(left), places[left]
    return {index: OptimisedEdit(vectors[index], losses[index]) for index in losses}


def predict(language_model: LanguageModel, running: RunningEdits, change: Tensor) -> tuple[Tensor, Tensor]:
    """Add δ at every subject and run the upper blocks.

    change: (edits, hidden) float32. Returns the mean over contexts and target tokens of −log p, (edits,),
    and the log-probabilities after the essence's subject, (edits, vocabulary), both float32.
    """
    anatomy, model = language_model.anatomy, language_model.model
    rows = torch.arange(len(running.subjects), device=change.device)
    at_subject = running.outputs[rows, running.subjects].float()
    moved = at_subject + change[:, None].expand(-1, running.rows_per_edit, -1).flatten(0, 1)
    outputs = running.outputs.index_put((rows, running.subjects), moved.to(running.outputs.dtype))
    with (
        replayed_blocks(model, anatomy, running.layer, outputs, in_tuple=running.in_tuple),
        head_reading(model, anatomy, *running.reads()),
    ):
        logits = model(**running.tokens.forward_arguments(model), use_cache=False).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)  # (reads, vocabulary)
    wanted = running.wanted_ids()
    surprise = -log_probs[: len(wanted)].gather(1, wanted[:, None])[:, 0]
    per_edit = surprise.split(
        [len(request.prompts) * len(request.target_ids) for request in running.requests]
    )
    return torch.stack([values.mean() for values in per_edit]), log_probs[len(wanted) :]


def divergence(current: Tensor, reference: Tensor) -> Tensor:
    """KL(current ‖ reference) of log-probabilities, (edits, vocabulary) to (edits,)."""
    divergences: Tensor = (current.exp() * (current - reference)).sum(dim=-1)
    return divergences


def size_penalty(change: Tensor, initial: Tensor) -> Tensor:
    """‖δ‖ / ‖v0‖², per edit; its gradient at δ = 0 is 0."""
    penalties: Tensor = torch.linalg.vector_norm(change, dim=1) / initial.square().sum(dim=1)
    return penalties


@torch.no_grad()
def clamp_norm(change: Tensor, initial: Tensor, factor: float) -> None:
    """Scale each δ that is longer than `factor` ‖v0‖ to that length, in place."""
    norms = torch.linalg.vector_norm(change, dim=1, keepdim=True)
    limits = factor * torch.linalg.vector_norm(initial, dim=1, keepdim=True)
    change.copy_(torch.where(norms > limits, change * limits / norms, change))
