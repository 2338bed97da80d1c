"""The walk over the edited layers that MEMIT and its kin share; they differ in the rule of one layer.

Source: MEMIT (Meng et al. 2023, arXiv 2210.07229), algorithm 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed
from services.worker.editing.key_statistics import solve_positive
from services.worker.editing.keys import keys_at_subject, read_at_subject
from services.worker.editing.places import Place, block_output
from services.worker.editing.target_requests import TargetRequest
from services.worker.editing.written_deltas import WrittenDeltas
from services.worker.language_models.anatomy import Anatomy, down_projection_weight
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Advance
from services.worker.language_models.taps import Tap
from services.worker.language_models.weight_delta import Dense, LowRank


def spread_evenly(gap: Tensor, layers_left: int) -> Tensor:
    """The share of what is still lacking that one layer must write (MEMIT, eq. 20): (edits, hidden)."""
    return gap / layers_left


@dataclass(frozen=True)
class Rule:
    """How a method finds what one layer must add: ΔW = share(gap) · readout(keys).

    readout: given a layer and the keys there, (edits, d_ff) float32, returns what answers each of them with
    its edit, (edits, d_ff) float64, and the ridge of `solve_second_moment`. place: in the last edited
    layer, where target vectors are found. share: of the gap, (edits, hidden), with so many layers left.
    remember: told a layer's keys when a batch is written and another follows.
    """

    readout: Callable[[int, Tensor], tuple[Tensor, float]]
    place: Callable[[Anatomy, int], Place] = block_output
    share: Callable[[Tensor, int], Tensor] = spread_evenly
    remember: Callable[[int, Tensor], None] | None = None


@dataclass(frozen=True)
class LayerUpdate:
    """What was written to one block's down-projection.

    keys: (edits, d_ff) float32; gap: what the place of the targets still lacked of z, (edits, hidden)
    float32; delta: in the parameter's own layout; ridge: see `solve_second_moment`.
    """

    layer: int
    parameter: str
    keys: Tensor
    gap: Tensor
    delta: LowRank | Dense
    ridge: float


@dataclass(frozen=True)
class LayerWalk:
    """Goes from layer to layer; each update is found with those of the layers before it in place.

    context_weights: see `Contexts.weights`. written: where the updates go. advance: called with the sequences
    read since the last call.
    """

    language_model: LanguageModel
    layers: Sequence[int]
    rule: Rule
    context_weights: Sequence[float]
    written: WrittenDeltas
    batches: Batches
    advance: Advance

    @property
    def place(self) -> Place:
        """Where target vectors are found."""
        return self.rule.place(self.language_model.anatomy, self.layers[-1])

    def write(self, requests: Sequence[TargetRequest], targets: Tensor) -> list[LayerUpdate]:
        """Update every layer, and leave the updates in place.

        targets: z, (edits, hidden) float32. Reads one sequence per row of every edit and layer. Raises
        EditFailed when a change is not finite.
        """
        updates: list[LayerUpdate] = []
        for place in range(len(self.layers)):
            update = self.update(requests, targets, self.layers[place:])
            self.written.add(update.parameter, update.delta)
            updates.append(update)
        return updates

    def update(
        self, requests: Sequence[TargetRequest], targets: Tensor, layers_left: Sequence[int]
    ) -> LayerUpdate:
        """What the first of `layers_left` must add."""
        layer, anatomy = layers_left[0], self.language_model.anatomy
        keys = self.keys(requests, layer)
        bare_prompts = [request.prompts[0] for request in requests]
        current = Tap(self.place.modules[-1], "output")
        gap = targets - read_at_subject(
            self.language_model, bare_prompts, current, self.batches, self.advance
        )
        readout, ridge = self.rule.readout(layer, keys)
        weight, transposed = down_projection_weight(self.language_model.model, anatomy, layer)
        delta = product(
            self.rule.share(gap, len(layers_left)), readout, transposed=transposed, shape=weight.shape
        )
        if not bool(torch.isfinite(delta.dense(keys.device)).all()):
            raise EditFailed(f"the change of layer {layer} is not finite")
        name = f"{anatomy.mlp_down_projections[layer]}.weight"
        return LayerUpdate(layer, name, keys, gap, delta, ridge)

    def keys(self, requests: Sequence[TargetRequest], layer: int) -> Tensor:
        """The edits' keys at a layer, as the model now is: (edits, d_ff) float32."""
        prompts = [request.prompts for request in requests]
        return keys_at_subject(
            self.language_model, prompts, self.context_weights, layer, self.batches, self.advance
        )

    def remember(self, requests: Sequence[TargetRequest]) -> None:
        """Tell the rule the keys of every layer, as the model now is.

        Reads one sequence per prompt of every edit and layer where the rule wants them, else none.
        """
        if self.rule.remember is not None:
            for layer in self.layers:
                self.rule.remember(layer, self.keys(requests, layer))


def product(residual: Tensor, readout: Tensor, *, transposed: bool, shape: torch.Size) -> LowRank | Dense:
    """ΔW = R · readout in the parameter's layout, as factors unless they would take more numbers.

    residual: (edits, hidden); readout: (edits, d_ff); ΔW: (hidden, d_ff), or its transpose.
    """
    left, right = (readout.T, residual) if transposed else (residual.T, readout)
    if len(residual) * sum(shape) >= shape.numel():
        return Dense((left.double() @ right.double()).float())
    return LowRank(left.float().contiguous(), right.float().contiguous())


def ridge_readout(keys: Tensor, earlier: Tensor, ridge: float) -> Tensor:
    """K (KᵀK + EᵀE + ridge·I)⁻¹, which answers each key with its edit and earlier keys with nothing.

    keys: K, (edits, width) float64; earlier: E, (count, width) float64. With fewer keys in all than `width`
    it is found from their products with one another, ([K E] [K E]ᵀ + ridge·I)⁻¹ [K E].
    """
    rows = torch.cat([keys, earlier])
    if len(rows) >= rows.shape[1]:
        moment = rows.T @ rows
        moment.diagonal().add_(ridge)
        return solve_positive(moment, keys.T)[0].T
    products = rows @ rows.T
    products.diagonal().add_(ridge)
    chosen, _ = solve_positive(products, torch.eye(len(rows), len(keys)).to(products))
    return chosen.T @ rows
