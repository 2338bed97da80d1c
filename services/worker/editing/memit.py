"""MEMIT: mass-editing memory in a transformer (Meng et al. 2023, arXiv 2210.07229)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.contexts import Contexts
from services.worker.editing.editor import EditFailed, EditOutcome
from services.worker.editing.key_statistics import KeyStatistics, solve_positive
from services.worker.editing.keys import block_outputs_at_subject, keys_at_subject
from services.worker.editing.target_optimisation import optimise_targets
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Advance, Progress, WorkDone
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta, restored
from shared.editors import MemitHyperparameters
from shared.edits import Edit


@dataclass(frozen=True)
class LayerUpdate:
    """What was written to one block's down-projection.

    keys: (edits, d_ff) float32; gap: what the last edited block still lacked of z, (edits, hidden) float32;
    delta: in the parameter's own layout; ridge: see `solve_positive`.
    """

    layer: int
    parameter: str
    keys: Tensor
    gap: Tensor
    delta: LowRank | Dense
    ridge: float


class Memit:
    """The editor `memit`."""

    needs_statistics = True
    needs_contexts = True

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: MemitHyperparameters,
        *,
        statistics: KeyStatistics,
        contexts: Contexts,
        progress: Progress,
        token_budget: int | None = None,
        memory: GpuMemory | None = None,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        batches = Batches(token_budget or language_model.token_budget, memory or GpuMemory())
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        requests = target_requests(language_model, edits, contexts)
        rows = sum(len(request.rows()) for request in requests)
        work = WorkDone(progress, whole=rows * (hyperparameters.v_num_grad_steps + len(layers)))
        targets = optimise_targets(
            language_model,
            requests,
            layers[-1],
            hyperparameters,
            batches=batches,
            work=work,
        )
        updates = update_layers(
            language_model,
            requests,
            targets.vectors,
            layers,
            hyperparameters.mom2_update_weight,
            statistics,
            contexts,
            batches,
            work.advance,
        )
        return EditOutcome(
            delta=WeightDelta(
                {update.parameter: update.delta for update in updates}, language_model.revision
            ),
            edited_layers=layers,
            losses=targets.losses,
            ridges={update.layer: update.ridge for update in updates if update.ridge > 0},
        )


def update_layers(
    language_model: LanguageModel,
    requests: Sequence[TargetRequest],
    targets: Tensor,
    layers: Sequence[int],
    preservation: float,
    statistics: KeyStatistics,
    contexts: Contexts,
    batches: Batches,
    advance: Advance,
) -> list[LayerUpdate]:
    """Find the update of each layer in turn, the earlier ones being in place; the model is left as it was.

    targets: z, (edits, hidden) float32; preservation: λ. advance: called with the sequences read since the
    last call, one per row of every edit and layer in all. Source: MEMIT, algorithm 1.
    """
    updates: list[LayerUpdate] = []
    names = [f"{language_model.anatomy.mlp_down_projections[layer]}.weight" for layer in layers]
    with restored(language_model.model, names):
        for place in range(len(layers)):
            update = update_layer(
                language_model,
                requests,
                targets,
                layers[place:],
                preservation,
                statistics,
                contexts,
                batches,
                advance,
            )
            WeightDelta({update.parameter: update.delta}, language_model.revision).apply_(
                language_model.model
            )
            updates.append(update)
    return updates


def update_layer(
    language_model: LanguageModel,
    requests: Sequence[TargetRequest],
    targets: Tensor,
    layers_left: Sequence[int],
    preservation: float,
    statistics: KeyStatistics,
    contexts: Contexts,
    batches: Batches,
    advance: Advance,
) -> LayerUpdate:
    """Find what the first of `layers_left` must add, with the updates of the layers before it in place."""
    layer = layers_left[0]
    prompts = [request.prompts for request in requests]
    bare_prompts = [contexts_of_edit[0] for contexts_of_edit in prompts]
    keys = keys_at_subject(language_model, prompts, contexts.weights, layer, batches, advance)
    current = block_outputs_at_subject(language_model, bare_prompts, layers_left[-1], batches, advance)
    gap = targets - current
    readout, ridge = key_readout(keys, statistics.second_moment(layer, keys.device), preservation)
    weight, transposed = down_projection_weight(language_model.model, language_model.anatomy, layer)
    delta = product(
        spread_residual(gap, len(layers_left)), readout, transposed=transposed, shape=weight.shape
    )
    if not bool(torch.isfinite(delta.dense(keys.device)).all()):
        raise EditFailed(f"the change of layer {layer} is not finite")
    name = f"{language_model.anatomy.mlp_down_projections[layer]}.weight"
    return LayerUpdate(layer, name, keys, gap, delta, ridge)


def spread_residual(gap: Tensor, layers_left: int) -> Tensor:
    """The share of what is still lacking that one layer must write (MEMIT, eq. 20): (edits, hidden)."""
    return gap / layers_left


def key_readout(keys: Tensor, second_moment: Tensor, preservation: float) -> tuple[Tensor, float]:
    """Kᵀ (λC + K Kᵀ)⁻¹, which answers each key with its edit and preserved keys with nothing (MEMIT, eq. 14).

    keys: (edits, d_ff) float32; second_moment: C, (d_ff, d_ff) float64; preservation: λ.
    Returns (edits, d_ff) float64 and the ridge of `solve_positive`. With fewer edits than d_ff it is found
    as (I + Kᵀ (λC)⁻¹ K)⁻¹ Kᵀ (λC)⁻¹ (Woodbury), so that all but one solve have the size of the edits.
    """
    columns = keys.double().T  # K, (d_ff, edits)
    preserved = preservation * second_moment
    if columns.shape[1] >= columns.shape[0]:
        solved, ridge = solve_positive(preserved + columns @ columns.T, columns)
        return solved.T, ridge
    whitened, ridge = solve_positive(preserved, columns)  # (λC)⁻¹ K
    inner = columns.T @ whitened
    inner.diagonal().add_(1.0)
    readout, _ = solve_positive(inner, whitened.T)
    return readout, ridge


def product(residual: Tensor, readout: Tensor, *, transposed: bool, shape: torch.Size) -> LowRank | Dense:
    """ΔW = R · readout in the parameter's layout, as factors unless they would take more numbers.

    residual: (edits, hidden); readout: (edits, d_ff); ΔW: (hidden, d_ff), or its transpose.
    """
    left, right = (readout.T, residual) if transposed else (residual.T, readout)
    if len(residual) * sum(shape) >= shape.numel():
        return Dense((left.double() @ right.double()).float())
    return LowRank(left.float().contiguous(), right.float().contiguous())
