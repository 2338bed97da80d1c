"""FT-L: fine-tuning within an L∞ ball (Zhu et al. 2020, arXiv 2012.00363).

The loss is the one of the public implementations (Meng et al. 2022): every token of the target is asked
for at the prompt's last token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.worker.editing.contexts import Contexts
from services.worker.editing.editor import EditFailed, EditOutcome
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.token_positions import check_lengths, prompt_sequences
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import Progress, WorkDone
from services.worker.language_models.taps import head_reading
from services.worker.language_models.weight_delta import Dense, WeightDelta, restored
from shared.editors import ConstrainedFineTuningHyperparameters
from shared.edits import SLOT, Edit

# A batch whose loss is below this makes no update (the references' constant).
LOSS_THRESHOLD = 0.01


class ConstrainedFineTuning:
    """The editor `ft_l`."""

    needs_statistics = False
    needs_contexts = False

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: ConstrainedFineTuningHyperparameters,
        *,
        statistics: KeyStatistics,
        contexts: Contexts,
        progress: Progress,
        token_budget: int | None = None,
        memory: GpuMemory | None = None,
    ) -> EditOutcome:
        """See `Editor.edit`."""
        batches = Batches(token_budget or language_model.token_budget, memory or GpuMemory())
        model = language_model.model
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        prompts = prompt_sequences(language_model, edits, [SLOT])
        targets = [encode_target(language_model.tokenizer, edit.target_new) for edit in edits]
        check_lengths(language_model, prompts, [len(target) for target in targets])
        cases = [
            Case(index, of_edit[0].ids, tuple(target))
            for index, (of_edit, target) in enumerate(zip(prompts, targets, strict=True))
        ]
        work = WorkDone(progress, whole=hyperparameters.num_steps * len(cases))
        names = tuned_parameters(language_model, layers)
        losses: list[float] = []
        with restored(model, names):
            weights = BoundedWeights([model.get_parameter(name) for name in names], hyperparameters)
            for _ in range(hyperparameters.num_steps):
                before = len(losses)
                for first in range(0, len(cases), hyperparameters.batch_size):
                    batch = cases[first : first + hyperparameters.batch_size]
                    loss = accumulate_gradients(language_model, weights.parameters, batch, batches)
                    if loss >= LOSS_THRESHOLD:
                        losses.append(loss)
                        weights.step()
                    work.advance(len(batch))
                if len(losses) == before:
                    work.finish()  # No batch has anything left to learn, and none ever will.
                    break
            deltas = dict(zip(names, weights.deltas(), strict=True))
        return EditOutcome(
            delta=WeightDelta(deltas, language_model.revision), edited_layers=layers, losses=(tuple(losses),)
        )


@dataclass(frozen=True)
class Case:
    """One edit in tokens: its index, its prompt and its target."""

    edit_index: int
    prompt: tuple[int, ...]
    target: tuple[int, ...]


class BoundedWeights:
    """Parameters under Adam, none of whose entries moves further than `norm_constraint`.

    The optimiser works on float32 copies, so that a bfloat16 model is not lost in rounding.
    """

    def __init__(
        self, parameters: list[nn.Parameter], hyperparameters: ConstrainedFineTuningHyperparameters
    ) -> None:
        self.parameters = [parameter.requires_grad_(True) for parameter in parameters]
        self.originals = [parameter.detach().clone() for parameter in parameters]
        self.copies = [original.to(torch.float32, copy=True) for original in self.originals]
        self.bound = hyperparameters.norm_constraint
        self.optimiser = torch.optim.Adam(
            self.copies, lr=hyperparameters.lr, weight_decay=hyperparameters.weight_decay
        )

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients of the parameters, which it clears."""
        for parameter, copy in zip(self.parameters, self.copies, strict=True):
            if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()):
                raise EditFailed("the gradient of the edited weights is not finite")
            copy.grad, parameter.grad = parameter.grad.float(), None
        self.optimiser.step()
        for parameter, copy, original in zip(self.parameters, self.copies, self.originals, strict=True):
            copy.clamp_(min=original.float() - self.bound, max=original.float() + self.bound)
            parameter.copy_(copy)

    def deltas(self) -> list[Dense]:
        """How far each parameter moved."""
        return [
            Dense.between(original, parameter)
            for original, parameter in zip(self.originals, self.parameters, strict=True)
        ]


def tuned_parameters(language_model: LanguageModel, layers: Sequence[int]) -> list[str]:
    """Names of the weight and, where there is one, the bias of each layer's MLP down-projection."""
    paths = [language_model.anatomy.mlp_down_projections[layer] for layer in layers]
    return [
        f"{path}.{name}"
        for path in paths
        for name, _ in language_model.model.get_submodule(path).named_parameters(recurse=False)
    ]


def accumulate_gradients(
    language_model: LanguageModel,
    parameters: Sequence[Tensor],
    batch: Sequence[Case],
    batches: Batches,
) -> float:
    """Mean over edits of the mean over target tokens of −log p, read at the prompt's last token.

    Leaves its gradient on the parameters. Raises EditFailed when it is not finite.
    """
    for parameter in parameters:
        parameter.grad = None
    total = 0.0

    def learn(chosen: Sequence[int]) -> None:
        nonlocal total
        cases = [batch[index] for index in chosen]
        log_probs = next_token_log_probs(language_model, [case.prompt for case in cases])
        losses = torch.stack(
            [-row[list(case.target)].mean() for row, case in zip(log_probs, cases, strict=True)]
        )
        for case, value in zip(cases, losses.tolist(), strict=True):
            if not math.isfinite(value):
                raise EditFailed(f"its loss is {value}", case.edit_index)
        loss = losses.sum() / len(batch)
        # Found first and added afterwards: a backward pass that runs out of memory must leave nothing behind.
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        total += loss.item()

    batches.run("edits were trained on", [len(case.prompt) for case in batch], learn)
    return total


def next_token_log_probs(language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities of what follows each prompt: (prompts, vocabulary) float32."""
    model, batch = language_model.model, language_model.batch(prompts)
    rows = torch.arange(len(prompts), device=batch.lengths.device)
    with head_reading(model, language_model.anatomy, rows, batch.columns(batch.lengths - 1)):
        logits: Tensor = model(**batch.forward_arguments(model), use_cache=False).logits[0]
    return logits.float().log_softmax(dim=-1)
