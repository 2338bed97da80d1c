"""The gradients that edits ask of a model's weights, as factors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed
from services.worker.editing.fine_tuning import Case, loss_at_target_tokens
from services.worker.editing.gradient_factors import Factors, LinearWeight, gradient_factors
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches


def edit_factors(
    language_model: LanguageModel, weights: Sequence[LinearWeight], cases: Sequence[Case]
) -> tuple[Tensor, dict[str, Factors]]:
    """The loss of each case, (cases,) float32, and the factors of the gradient of their sum, by path.

    Raises EditFailed when a loss is not finite.
    """
    losses, factors = gradient_factors(
        language_model.model, weights, lambda: loss_at_target_tokens(language_model, cases)
    )
    for case, value in zip(cases, losses.tolist(), strict=True):
        if not math.isfinite(value):
            raise EditFailed(f"its loss is {value}", case.edit_index)
    return losses, factors


def collect_factors(
    language_model: LanguageModel, weights: Sequence[LinearWeight], cases: Sequence[Case], batches: Batches
) -> dict[str, Factors]:
    """The factors of the gradient of the sum of the cases' losses, by path; see `edit_factors`."""
    parts: list[dict[str, Factors]] = []

    def collect(chosen: Sequence[int]) -> None:
        parts.append(edit_factors(language_model, weights, [cases[index] for index in chosen])[1])

    batches.run("gradients of edits were taken", [case.length for case in cases], collect)
    return {
        weight.path: Factors(
            torch.cat([part[weight.path].inputs for part in parts]),
            torch.cat([part[weight.path].outputs for part in parts]),
        )
        for weight in weights
    }
