"""The target vectors z: what a place must put out at the subject's last token for each edit to hold.

Every edit is its own problem (its loss, its clamp, its end); they only share the forward and backward
passes. Source: MEMIT (Meng et al. 2023), eq. 16, after ROME (Meng et al. 2022), eq. 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed
from services.worker.editing.places import Place
from services.worker.editing.running_edits import Route, RunningEdits, shortest_route, start_running
from services.worker.editing.shared_contexts import run_shared_contexts
from services.worker.editing.target_requests import TargetRequest
from services.worker.language_models.loading import VALUES_PER_BLOCK, LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.taps import (
    head_reading,
    moved_outputs,
    replayed_blocks,
)
from shared.editors import TargetHyperparameters

# An edit whose loss is below this is done (the references' constant).
LOSS_THRESHOLD = 0.05
# What activations may take of the memory that the weights take, or in bytes if that is more; and how many
# tokens are enough, a step with more of them being no faster.
ACTIVATION_SHARE, FEWEST_BYTES = 1 / 16, 96 * 2**20
ENOUGH_TOKENS = 1_024


@dataclass(frozen=True)
class TargetVectors:
    """What the optimisation found.

    by_module: z of each module of the place, (edits, modules, hidden) float32. losses: per edit, at each
    evaluation; all but the last of them were followed by an update.
    """

    by_module: Tensor
    losses: tuple[tuple[float, ...], ...]

    @property
    def vectors(self) -> Tensor:
        """z of the place's last module, the only one of most: (edits, hidden) float32."""
        return self.by_module[:, -1]


@dataclass(frozen=True)
class OptimisedEdit:
    """One edit's z, (modules, hidden) float32, and its loss at each evaluation."""

    vectors: Tensor
    losses: Sequence[float]


def optimise_targets(
    language_model: LanguageModel,
    requests: Sequence[TargetRequest],
    place: Place,
    hyperparameters: TargetHyperparameters,
    *,
    batches: Batches,
    work: WorkDone,
) -> TargetVectors:
    """Find z for the outputs at a place, for all edits together.

    Only the blocks above the place run at each step, and where the model allows only from the subject's last
    token on. batches: more edits than fit at once, or than `tokens_at_once`, are done one chunk after
    another. work: advanced by `v_num_grad_steps` per row of every edit in all. Raises EditFailed when a loss
    is not finite.
    """
    sequences = [request.sequences() for request in requests]
    route = shortest_route(language_model, place)
    shared = run_shared_contexts(language_model, sequences, range(len(language_model.anatomy.blocks)))
    found: dict[int, OptimisedEdit] = {}

    def optimise(chunk: Sequence[int]) -> None:
        chosen = [requests[index] for index in chunk]
        running = start_running(language_model, list(chunk), chosen, place, route, shared)
        with work.taken_back_on_failure():
            found.update(optimise_chunk(language_model, running, hyperparameters, work))

    batches.at_most(tokens_at_once(language_model, route)).run(
        "edits were optimised",
        [max(route.tokens_to_run(sequence) for sequence in of_edit) for of_edit in sequences],
        optimise,
        rows=[len(of_edit) for of_edit in sequences],
    )
    in_order = [found[index] for index in range(len(requests))]
    return TargetVectors(
        torch.stack([edit.vectors for edit in in_order]), tuple(tuple(edit.losses) for edit in in_order)
    )


def tokens_at_once(language_model: LanguageModel, route: Route) -> int:
    """Tokens whose activations, kept for a backward pass, take a small share of the model's own memory."""
    model = language_model.model
    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    hidden = int(model.config.get_text_config(decoder=True).hidden_size)
    blocks = max(1, len(language_model.anatomy.blocks) - route.replayed - 1)
    per_token = VALUES_PER_BLOCK * hidden * blocks * language_model.dtype.itemsize
    return min(ENOUGH_TOKENS, max(int(ACTIVATION_SHARE * weights), FEWEST_BYTES) // per_token)


def optimise_chunk(
    language_model: LanguageModel,
    running: RunningEdits,
    hyperparameters: TargetHyperparameters,
    work: WorkDone,
) -> dict[int, OptimisedEdit]:
    """Descend for the edits of one batch until each is done; returns what was found by edit."""
    steps = hyperparameters.v_num_grad_steps
    initial = running.initial  # v0, (edits, modules, hidden)
    change = torch.zeros_like(initial, requires_grad=True)  # δ
    optimiser = torch.optim.Adam([change], lr=hyperparameters.v_lr)
    places = torch.arange(len(initial), device=initial.device)  # of the edits still running
    reference: Tensor | None = None
    vectors: dict[int, Tensor] = {}
    losses: dict[int, list[float]] = {index: [] for index in running.indices}
    for step in range(steps):
        target_loss, essence = predict(language_model, running, change[places])
        reference = essence.detach() if reference is None else reference
        loss = (
            target_loss
            + hyperparameters.kl_factor * divergence(essence, reference[places])
            + hyperparameters.v_weight_decay * size_penalty(change[places], initial[places])
        )
        done = []
        worked = 0
        for index, place, value, request in zip(
            running.indices, places.tolist(), loss.tolist(), running.requests, strict=True
        ):
            if not math.isfinite(value):
                raise EditFailed(f"the loss of its target vector is {value} at step {step}", index)
            losses[index].append(value)
            done.append(value < LOSS_THRESHOLD or step == steps - 1)
            worked += len(request.rows()) * (steps - step if done[-1] else 1)
            if done[-1]:
                vectors[index] = (initial[place] + change[place]).detach()
        work.advance(worked)
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

    change: (edits, modules, hidden) float32. Returns the mean over contexts and target tokens of −log p,
    (edits,), and the log-probabilities after the essence's subject, (edits, vocabulary), both float32.
    """
    anatomy, model, route = language_model.anatomy, language_model.model, running.route
    rows = torch.tensor(running.row_counts, device=change.device)
    of_rows = change.repeat_interleave(rows, dim=0).transpose(0, 1)  # (modules, rows, hidden)
    with (
        replayed_blocks(model, anatomy, route.replayed, running.outputs, in_tuple=route.in_tuple),
        moved_outputs(model, route.modules, running.subject_tokens, of_rows),
        head_reading(model, anatomy, *running.reads),
    ):
        logits = model(**running.continuation.forward_arguments(model)).logits[0].float()
    wanted = running.wanted_ids
    of_targets = logits[: len(wanted)]  # (target reads, vocabulary)
    surprise = of_targets.logsumexp(dim=-1) - of_targets.gather(1, wanted[:, None])[:, 0]
    # Not a product with a matrix of weights, in which one edit that is not finite would be all of them.
    per_edit = torch.segment_reduce(surprise, "mean", lengths=running.target_reads)
    return per_edit, logits[len(wanted) :].log_softmax(dim=-1)


def divergence(current: Tensor, reference: Tensor) -> Tensor:
    """KL(current ‖ reference) of log-probabilities, (edits, vocabulary) to (edits,)."""
    divergences: Tensor = (current.exp() * (current - reference)).sum(dim=-1)
    return divergences


def size_penalty(change: Tensor, initial: Tensor) -> Tensor:
    """‖δ‖ / ‖v0‖² summed over modules: (edits, modules, hidden) to (edits,); its gradient at δ = 0 is 0."""
    penalties: Tensor = torch.linalg.vector_norm(change, dim=-1) / initial.square().sum(dim=-1)
    return penalties.sum(dim=1)


@torch.no_grad()
def clamp_norm(change: Tensor, initial: Tensor, factor: float) -> None:
    """Scale each δ that is longer than `factor` ‖v0‖ to that length, in place."""
    norms = torch.linalg.vector_norm(change, dim=-1, keepdim=True)
    limits = factor * torch.linalg.vector_norm(initial, dim=-1, keepdim=True)
    change.copy_(torch.where(norms > limits, change * limits / norms, change))
