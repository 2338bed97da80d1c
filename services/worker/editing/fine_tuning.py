"""Fine-tuning on the edits: the loop that FT, FT-L, FT-M and LoRA share, and the losses they descend."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.worker.editing.editor import EditFailed, EditingRun
from services.worker.editing.token_positions import check_lengths, prompt_sequences
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.taps import head_reading
from shared.editors import FineTuningHyperparameters
from shared.edits import SLOT, Edit


@dataclass(frozen=True)
class Case:
    """One edit in tokens: its index, its prompt and its target."""

    edit_index: int
    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that a forward pass reads at most: the target's last is only predicted."""
        return len(self.prompt) + len(self.target) - 1


Loss = Callable[[LanguageModel, Sequence[Case]], Tensor]  # per case, float32, in nats per target token
Constraint = Callable[[Tensor, Tensor], None]  # puts what it is given first within reach of the original


def edit_cases(language_model: LanguageModel, edits: Sequence[Edit]) -> list[Case]:
    """Tokenize every edit; raises SubjectNotFound and SubjectTruncated."""
    prompts = prompt_sequences(language_model, edits, [SLOT])
    targets = [encode_target(language_model.tokenizer, edit.target_new) for edit in edits]
    check_lengths(language_model, prompts, [len(target) for target in targets])
    return [
        Case(index, of_edit[0].ids, tuple(target))
        for index, (of_edit, target) in enumerate(zip(prompts, targets, strict=True))
    ]


def unconstrained(_values: Tensor, _original: Tensor) -> None:
    """Let the values be whatever they have become."""


def descend(
    language_model: LanguageModel,
    cases: Sequence[Case],
    parameters: Sequence[nn.Parameter],
    settings: FineTuningHyperparameters,
    loss: Loss,
    run: EditingRun,
    constrain: Constraint = unconstrained,
) -> tuple[float, ...]:
    """Train `parameters` on the cases until no batch of them has anything left to learn.

    Returns the loss before each update. The parameters stay as they have become: the caller puts them back.
    Raises EditFailed when a loss or a gradient is not finite.
    """
    batches = run.batches(language_model)
    learner = Learner(parameters, settings, constrain)
    work = WorkDone(run.progress, whole=settings.num_steps * len(cases))
    losses: list[float] = []
    for _ in range(settings.num_steps):
        before = len(losses)
        for first in range(0, len(cases), settings.batch_size):
            batch = cases[first : first + settings.batch_size]
            found = accumulate_gradients(language_model, learner.parameters, batch, loss, batches)
            if found >= settings.loss_threshold:
                losses.append(found)
                learner.step()
            work.advance(len(batch))
        if len(losses) == before:
            work.finish()
            break
    return tuple(losses)


class Learner:
    """Parameters under Adam, held to a constraint.

    The optimiser works on float32 copies, so that a bfloat16 model is not lost in rounding.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        settings: FineTuningHyperparameters,
        constrain: Constraint,
    ) -> None:
        self.parameters = [parameter.requires_grad_(True) for parameter in parameters]
        self.originals = [parameter.detach().float().clone() for parameter in parameters]
        self.copies = [original.clone() for original in self.originals]
        self.constrain = constrain
        self.optimiser = torch.optim.Adam(self.copies, lr=settings.lr, weight_decay=settings.weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients of the parameters, which it clears."""
        for parameter, copy in zip(self.parameters, self.copies, strict=True):
            if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()):
                raise EditFailed("the gradient of the edited weights is not finite")
            copy.grad, parameter.grad = parameter.grad.float(), None
        self.optimiser.step()
        for parameter, copy, original in zip(self.parameters, self.copies, self.originals, strict=True):
            self.constrain(copy, original)
            parameter.copy_(copy)


def accumulate_gradients(
    language_model: LanguageModel,
    parameters: Sequence[Tensor],
    batch: Sequence[Case],
    loss: Loss,
    batches: Batches,
) -> float:
    """Mean of the cases' losses; leaves its gradient on the parameters.

    Raises EditFailed when a loss is not finite.
    """
    for parameter in parameters:
        parameter.grad = None
    total = 0.0

    def learn(chosen: Sequence[int]) -> None:
        nonlocal total
        cases = [batch[index] for index in chosen]
        losses = loss(language_model, cases)
        for case, value in zip(cases, losses.tolist(), strict=True):
            if not math.isfinite(value):
                raise EditFailed(f"its loss is {value}", case.edit_index)
        share = losses.sum() / len(batch)
        # Found first and added afterwards: a backward pass that runs out of memory must leave nothing behind.
        gradients = torch.autograd.grad(share, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        total += share.item()

    batches.run("edits were trained on", [case.length for case in batch], learn)
    return total


def loss_at_last_token(language_model: LanguageModel, cases: Sequence[Case]) -> Tensor:
    """Per case, the mean over target tokens of −log p, all read at the prompt's last token: (cases,) float32.

    That is what the public implementations of FT and FT-L ask for (Meng et al. 2022): for a target of
    several tokens, a mixture of them.
    """
    prompts = [case.prompt for case in cases]
    log_probs = log_probs_after(language_model, prompts, [[len(prompt) - 1] for prompt in prompts])
    return torch.stack([-row[list(case.target)].mean() for row, case in zip(log_probs, cases, strict=True)])


def loss_at_target_tokens(language_model: LanguageModel, cases: Sequence[Case]) -> Tensor:
    """Per case, the mean over target tokens of −log p, each read right before it: (cases,) float32.

    The target is fed as it is wanted (teacher forcing) and the prompt is not trained on: the loss of FT-M
    (Zhang et al. 2024).
    """
    log_probs = log_probs_at_targets(language_model, cases)
    wanted = torch.tensor([token for case in cases for token in case.target], device=log_probs.device)
    surprise = -log_probs.gather(1, wanted[:, None])[:, 0]
    return mean_per_case(surprise, cases)


def mean_per_case(values: Tensor, cases: Sequence[Case]) -> Tensor:
    """Means over each case's target tokens: (targets,) to (cases,)."""
    per_case = torch.split(values, [len(case.target) for case in cases])
    return torch.stack([of_case.mean() for of_case in per_case])


def log_probs_at_targets(language_model: LanguageModel, cases: Sequence[Case]) -> Tensor:
    """Log-probabilities right before every target token, case by case: (targets, vocabulary) float32."""
    sequences = [case.prompt + case.target[:-1] for case in cases]
    reads = [range(len(case.prompt) - 1, case.length) for case in cases]
    return log_probs_after(language_model, sequences, reads)


def log_probs_after(
    language_model: LanguageModel, sequences: Sequence[Sequence[int]], reads: Sequence[Sequence[int]]
) -> Tensor:
    """Log-probabilities of what follows some tokens: (reads, vocabulary) float32.

    reads: for each sequence, the positions of those tokens, counted from its first.
    """
    model, batch = language_model.model, language_model.batch(sequences)
    device = batch.starts.device
    rows = torch.tensor([row for row, of_row in enumerate(reads) for _ in of_row], device=device)
    positions = torch.tensor([position for of_row in reads for position in of_row], device=device)
    with head_reading(model, language_model.anatomy, rows, batch.starts[rows] + positions):
        logits: Tensor = model(**batch.forward_arguments(model), use_cache=False).logits[0]
    return logits.float().log_softmax(dim=-1)
