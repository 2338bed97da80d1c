"""The neurons that a fact is due to: from attributions to a few neurons per fact (Dai et al. 2022)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed
from services.worker.editing.integrated_gradients import IntegratedGradients
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.prompted_target import PromptedTarget

ROUNDING = 1e-9  # of a share times a count


@dataclass(frozen=True)
class Neurons:
    """Some neurons, (found,) each.

    places: counted through all neurons of the layers, int64. strengths: attributions, in shares of a
    prompt's largest, float32. activations: float32.
    """

    places: Tensor
    strengths: Tensor
    activations: Tensor

    def only(self, chosen: Tensor) -> "Neurons":
        """Those at (chosen,) int64, or where a mask, (found,) bool, is true."""
        return Neurons(self.places[chosen], self.strengths[chosen], self.activations[chosen])


def coarse_neurons(
    gradients: IntegratedGradients,
    rows: Sequence[Sequence[PromptedTarget]],
    threshold: float,
    batches: Batches,
    progress: Progress,
) -> list[list[Neurons]]:
    """Per edit and row, the neurons with at least a share `threshold` of its largest attribution (3.3).

    Raises EditFailed when an attribution is not finite.
    """
    flat = [(edit, row) for edit, of_edit in enumerate(rows) for row in of_edit]
    found: dict[int, Neurons] = {}
    work = WorkDone(progress, whole=len(flat) * len(gradients.layers))

    def attribute(chunk: Sequence[int]) -> None:
        with work.taken_back_on_failure():
            read = gradients.attribute([flat[index][1] for index in chunk], work.advance)
        for index, values, activations in zip(chunk, read.attributed, read.activations, strict=True):
            if not bool(values.isfinite().all()):
                raise EditFailed("what its answer is due to is not finite", flat[index][0])
            largest = values.max()
            places = ((values >= threshold * largest) & (values > 0)).nonzero()[:, 0]
            found[index] = Neurons(places, values[places] / largest, activations[places])

    batches.run("answers were attributed", [gradients.tokens_to_run(row) for _, row in flat], attribute)
    in_order = iter(range(len(flat)))
    return [[found[next(in_order)] for _ in of_edit] for of_edit in rows]


def neurons_in_common(prompts: Sequence[Neurons], share: float) -> Neurons:
    """The neurons that at least this share of a fact's prompts have found (3.3), with means over prompts.

    A prompt that has not found a neuron has no part in the mean of its activation, and none in its strength.
    """
    places = torch.cat([prompt.places for prompt in prompts])
    together, which, counts = torch.unique(places, return_inverse=True, return_counts=True)
    nothing = torch.zeros(len(together), device=places.device)
    strengths = nothing.index_add(0, which, torch.cat([prompt.strengths for prompt in prompts]))
    activations = nothing.index_add(0, which, torch.cat([prompt.activations for prompt in prompts]))
    found = Neurons(together, strengths / len(prompts), activations / counts)
    return found.only(counts >= math.ceil(share * len(prompts) - ROUNDING))


def own_neurons(facts: Sequence[Neurons], max_shared: float, most: int) -> list[Neurons]:
    """The strongest neurons of each fact, without those that too many of the other facts have found (5.1).

    max_shared: largest share of the other facts.
    """
    counts = torch.cat([fact.places for fact in facts]).bincount()
    limit = 1 + max_shared * (len(facts) - 1) + ROUNDING
    own = [fact.only(counts[fact.places] <= limit) for fact in facts]
    return [fact.only(fact.strengths.argsort(descending=True, stable=True)[:most]) for fact in own]
