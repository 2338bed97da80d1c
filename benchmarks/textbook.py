"""MEMIT and ROME as their papers tell them: one edit at a time, and every step runs the whole model.

What ours is measured against. The numbers are defined alike (Meng et al. 2022, arXiv 2202.05262; Meng et al.
2023, arXiv 2210.07229), so that both must find the same; nothing is shared, cached or left out: each step
runs all contexts of one edit through all blocks and takes the logits of every token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.worker.editing.editor import Materials
from services.worker.editing.key_statistics import solve_second_moment
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.anatomy import down_projection_weight, hidden_of
from services.worker.language_models.batching import pad
from services.worker.language_models.loading import LanguageModel
from shared.editors import MemitHyperparameters, TargetHyperparameters
from shared.editors.rome import RomeHyperparameters
from shared.edits import Edit

LOSS_THRESHOLD = 0.05


@dataclass(frozen=True)
class TextbookOutcome:
    """targets: z, (edits, hidden); deltas: per edited layer or per edit, ΔW in the parameter's own layout."""

    targets: Tensor
    deltas: list[Tensor]


def memit(
    language_model: LanguageModel, edits: Sequence[Edit], settings: MemitHyperparameters, materials: Materials
) -> TextbookOutcome:
    """The target vector of each edit in turn, then the update of each layer in turn."""
    model, anatomy = language_model.model, language_model.anatomy
    layers = settings.edited_layers(len(anatomy.blocks))
    requests = target_requests(language_model, edits, materials.contexts)
    last = anatomy.blocks[layers[-1]]
    targets = torch.stack([find_target(language_model, request, last, settings) for request in requests])
    weights = [down_projection_weight(model, anatomy, layer) for layer in layers]
    originals = [weight.detach().clone() for weight, _ in weights]
    deltas = []
    for place, (layer, (weight, transposed)) in enumerate(zip(layers, weights, strict=True)):
        down_projection = model.get_submodule(anatomy.mlp_down_projections[layer])
        keys = torch.stack(
            [
                mean_of_groups(
                    at_subject(language_model, request.prompts, down_projection, "input"), materials
                )
                for request in requests
            ]
        ).double()
        current = torch.cat(
            [
                at_subject(language_model, request.prompts[:1], model.get_submodule(last), "output")
                for request in requests
            ]
        ).double()
        preserved = settings.mom2_update_weight * second_moment(materials, layer)
        adjusted = torch.linalg.solve(preserved + keys.T @ keys, keys.T)  # (λC + K Kᵀ)⁻¹ K
        residual = (targets.double() - current) / (len(layers) - place)
        change = (adjusted @ residual).float()  # (d_ff, hidden)
        deltas.append(change if transposed else change.T)
        with torch.no_grad():
            weight.add_(deltas[-1])
    for (weight, _), original in zip(weights, originals, strict=True):
        with torch.no_grad():
            weight.copy_(original)
    return TextbookOutcome(targets, deltas)


def rome(
    language_model: LanguageModel, edits: Sequence[Edit], settings: RomeHyperparameters, materials: Materials
) -> TextbookOutcome:
    """The rank-one update of each edit in turn, each on the model's own weights."""
    model, anatomy = language_model.model, language_model.anatomy
    (layer,) = settings.edited_layers(len(anatomy.blocks))
    down_projection = model.get_submodule(anatomy.mlp_down_projections[layer])
    _, transposed = down_projection_weight(model, anatomy, layer)
    inverse = torch.linalg.inv(second_moment(materials, layer)).float()
    targets, deltas = [], []
    for request in target_requests(language_model, edits, materials.contexts):
        key = at_subject(language_model, request.prompts, down_projection, "input").mean(dim=0)
        direction = inverse @ key
        direction = direction / direction.norm()
        mlp = anatomy.mlp_down_projections[layer]
        targets.append(find_target(language_model, request, mlp, settings))
        bare = at_subject(language_model, request.prompts[:1], down_projection, "input")[0]
        value = at_subject(language_model, request.prompts[:1], down_projection, "output")[0]
        answer = (targets[-1] - value) / bare.dot(direction)
        deltas.append(torch.outer(direction, answer) if transposed else torch.outer(answer, direction))
    return TextbookOutcome(torch.stack(targets), deltas)


def find_target(
    language_model: LanguageModel, request: TargetRequest, module: str, settings: TargetHyperparameters
) -> Tensor:
    """z of one edit, (hidden,) float32, for the output of a module at the subject's last token."""
    model = language_model.model
    prompts = [*request.prompts, request.essence]
    subjects = torch.tensor([prompt.subject_position for prompt in prompts])
    rows = torch.arange(len(prompts))
    tokens = pad(request.rows(), language_model.pad_token_id, "right").to(language_model.device)
    change = torch.zeros(int(model.config.hidden_size), requires_grad=True)
    initial: list[Tensor] = []
    reference: list[Tensor] = []

    def add_change(_module: nn.Module, _args: object, output: object) -> object:
        hidden = hidden_of(output).clone()
        by_row = hidden.view(*tokens.input_ids.shape, -1)  # OPT flattens its batch
        initial.append(by_row[0, subjects[0]].detach().clone())
        by_row[rows, subjects] += change
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    optimiser = torch.optim.Adam([change], lr=settings.v_lr)
    with model.get_submodule(module).register_forward_hook(add_change):
        for step in range(settings.v_num_grad_steps):
            log_probs = model(**tokens.forward_arguments(model), use_cache=False).logits.log_softmax(dim=-1)
            essence = log_probs[-1, subjects[-1]]
            reference.append(essence.detach())
            losses = [
                -log_probs[row, len(prompt.ids) - 1 + place, target]
                for row, prompt in enumerate(request.prompts)
                for place, target in enumerate(request.target_ids)
            ]
            divergence = (essence.exp() * (essence - reference[0])).sum()
            penalty = change.norm() / initial[0].norm() ** 2
            loss = (
                torch.stack(losses).mean()
                + settings.kl_factor * divergence
                + settings.v_weight_decay * penalty
            )
            if loss.item() < LOSS_THRESHOLD or step == settings.v_num_grad_steps - 1:
                break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            longest = settings.clamp_norm_factor * initial[0].norm()
            if change.norm() > longest:
                with torch.no_grad():
                    change.mul_(longest / change.norm())
    assert not math.isnan(loss.item())
    return initial[0] + change.detach()


def second_moment(materials: Materials, layer: int) -> Tensor:
    """C with the ridge that ours adds where it is as good as singular, for both to invert the same matrix."""
    moment = materials.statistics.second_moment(layer, torch.device("cpu"))
    _, ridge = solve_second_moment(moment, moment[:, :1])
    return moment + ridge * torch.eye(len(moment), dtype=moment.dtype)


@torch.no_grad()
def at_subject(
    language_model: LanguageModel, prompts: Sequence[SubjectSequence], module: nn.Module, side: str
) -> Tensor:
    """What goes into or comes out of a module at the subject of each prompt: (prompts, width) float32."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        read = args[0] if side == "input" else hidden_of(output)
        found.append(read.view(*tokens.input_ids.shape, -1))

    tokens = pad([prompt.ids for prompt in prompts], language_model.pad_token_id, "right")
    tokens = tokens.to(language_model.device)
    model = language_model.model
    with module.register_forward_hook(keep):
        model(**tokens.forward_arguments(model), use_cache=False)
    return found[0][torch.arange(len(prompts)), torch.tensor([p.subject_position for p in prompts])].float()


def mean_of_groups(keys: Tensor, materials: Materials) -> Tensor:
    """The mean of the means over the groups of contexts: (contexts, d_ff) to (d_ff,)."""
    sizes = [len(group) for group in materials.contexts.groups]
    return torch.stack([group.mean(dim=0) for group in keys.split(sizes)]).mean(dim=0)
