"""What updates of a model's weights lead to, and what that asks of them; the weights are not touched."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from services.worker.editing.fine_tuning import (
    Case,
    log_probs_at_targets,
    loss_at_target_tokens,
    mean_per_case,
)
from services.worker.editing.gradient_factors import Factors, updated
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches


class Trial:
    """Updates of the weights, and what is asked of them: to teach the edits and to leave the rest alone.

    What the losses ask is added up, a batch at a time, and then goes back once through whatever the updates
    came from.
    """

    def __init__(
        self, language_model: LanguageModel, updates: Mapping[str, Factors], batches: Batches
    ) -> None:
        self.language_model, self.batches = language_model, batches
        self.sources = [part for factors in updates.values() for part in (factors.inputs, factors.outputs)]
        self.updates = {
            path: Factors(factors.inputs.detach().requires_grad_(), factors.outputs.detach().requires_grad_())
            for path, factors in updates.items()
        }
        self.leaves = [
            part for factors in self.updates.values() for part in (factors.inputs, factors.outputs)
        ]
        self.gradients = [torch.zeros_like(leaf) for leaf in self.leaves]

    def edit_loss(self, cases: Sequence[Case], weight: float) -> float:
        """Mean over cases of the targets' loss; asks for as little of it, by this weight."""

        def losses(chosen: Sequence[Case]) -> Tensor:
            with updated(self.language_model.model, self.updates):
                return loss_at_target_tokens(self.language_model, chosen)

        return self.descend(cases, weight, losses)

    def divergence(self, cases: Sequence[Case]) -> float:
        """Mean over cases of KL(unedited ‖ edited) at the targets' tokens; asks for as little of it."""

        def losses(chosen: Sequence[Case]) -> Tensor:
            with torch.no_grad():
                before = log_probs_at_targets(self.language_model, chosen)
            with updated(self.language_model.model, self.updates):
                after = log_probs_at_targets(self.language_model, chosen)
            per_token = (before.exp() * (before - after)).sum(dim=1)
            return mean_per_case(per_token, chosen)

        return self.descend(cases, 1.0, losses)

    def descend(
        self, cases: Sequence[Case], weight: float, losses: Callable[[Sequence[Case]], Tensor]
    ) -> float:
        """Mean of the cases' losses; adds its gradient, by weight, to what is asked of the updates."""
        total = 0.0

        def learn(chosen: Sequence[int]) -> None:
            nonlocal total
            share = losses([cases[index] for index in chosen]).sum() / len(cases)
            found = torch.autograd.grad(weight * share, self.leaves)
            for asked, gradient in zip(self.gradients, found, strict=True):
                asked += gradient
            total += share.item()

        self.batches.run("edits were trained on", [case.length for case in cases], learn)
        return total

    def backpropagate(self) -> None:
        """Hand what was asked of the updates to the parameters that they came from."""
        torch.autograd.backward(self.sources, self.gradients)
