"""MEND: gradients of the edits, transformed by a hypernetwork (Mitchell et al. 2022, arXiv 2110.11309).

All edits are made in one update, the sum of what each gives alone. The hypernetwork was trained beforehand,
on other edits; see `hypernetwork_training`.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from services.worker.editing.edit_gradients import edit_factors
from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.fine_tuning import edit_cases
from services.worker.editing.gradient_factors import Factors, LinearWeight, mlp_weights
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from shared.editors import MendHyperparameters
from shared.edits import Edit


class Mend:
    """The editor `mend`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: MendHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`; raises ModificationMismatch when the hypernetwork is another model's."""
        if materials.hypernetwork is None:
            raise EditFailed("the editor needs a hypernetwork that was trained to edit this model")
        hypernetwork = materials.hypernetwork.to(language_model.device)
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        weights = mlp_weights(language_model, layers)
        hypernetwork.check_fits(language_model.revision, weights)
        cases = edit_cases(language_model, edits)
        work = WorkDone(run.progress, whole=len(cases))
        losses: dict[int, float] = {}
        sums = {weight.path: OuterProducts(weight) for weight in weights}

        def transform(chosen: Sequence[int]) -> None:
            found, factors = edit_factors(language_model, weights, [cases[index] for index in chosen])
            losses.update(zip(chosen, found.tolist(), strict=True))
            with torch.no_grad():
                for path, update in hypernetwork(factors).items():
                    sums[path].add(update)
            work.advance(len(chosen))

        run.batches(language_model).run("edits were made", [case.length for case in cases], transform)
        deltas = {weight.name: sums[weight.path].delta() for weight in weights}
        for name, delta in deltas.items():
            run.trace.keep(name, partial(delta.dense, language_model.device))
        return EditOutcome(
            modification=WeightDelta(deltas, language_model.revision),
            edited_layers=layers,
            losses=tuple((losses[index],) for index in range(len(cases))),
        )


class OuterProducts:
    """A sum of outer products, kept as factors for as long as these take fewer numbers than the matrix."""

    def __init__(self, weight: LinearWeight) -> None:
        self.weight = weight
        self.factors: list[Factors] = []
        self.dense: Tensor | None = None

    def add(self, factors: Factors) -> None:
        """Add Σ outputs inputsᵀ; raises EditFailed when it is not finite."""
        if not all(bool(torch.isfinite(some).all()) for some in (factors.inputs, factors.outputs)):
            raise EditFailed(f"the change of {self.weight.name} is not finite")
        self.factors.append(factors)
        rows = sum(len(some.inputs) for some in self.factors)
        if rows * (self.weight.inputs + self.weight.outputs) >= self.weight.inputs * self.weight.outputs:
            folded = self.product().dense(factors.inputs.device)
            self.dense = folded if self.dense is None else self.dense + folded
            self.factors = []

    def product(self) -> LowRank:
        """What is kept as factors, in the parameter's layout."""
        inputs = torch.cat([some.inputs for some in self.factors])
        outputs = torch.cat([some.outputs for some in self.factors])
        left, right = (inputs.T, outputs) if self.weight.transposed else (outputs.T, inputs)
        return LowRank(left.contiguous().cpu(), right.contiguous().cpu())

    def delta(self) -> LowRank | Dense:
        """The sum, in the parameter's layout, on the CPU."""
        if self.dense is None:
            return self.product()
        rest = self.product().dense(self.dense.device) if self.factors else 0.0
        return Dense((self.dense + rest).float().cpu())
