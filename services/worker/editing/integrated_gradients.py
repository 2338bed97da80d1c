"""To which neurons a model's answer is due, by integrated gradients (Dai et al. 2022, eq. 2 and 3).

A neuron is an input of a block's MLP down-projection at the prompt's last token, where a decoder predicts
the answer's first. The neurons of a block are led from zero to what they are, all together as in the paper's
code, and the gradient of the answer's probability is integrated on the way.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.worker.editing.running_edits import VALUES_KEPT
from services.worker.language_models.batching import pad
from services.worker.language_models.continuation import (
    Continuation,
    begin,
    can_continue,
    positions_from,
    taken,
)
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import Advance
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.taps import Tap, blocks_return_tuples, head_reading, replayed_blocks


@dataclass(frozen=True)
class Attributions:
    """The neurons of some blocks, block by block: (rows, neurons) float32 each.

    attributed: what each adds to the probability of the row's answer; those of one block add up to what is
    lost when all of them are zero. activations: what the neurons are.
    """

    attributed: Tensor
    activations: Tensor


@dataclass(frozen=True)
class Started:
    """Rows that have been run as they are.

    running: every row `steps` times in a row, cut before the prompt's last token where the model allows;
    columns: of that token in its ends, (rows,) int64. neurons: by layer, (rows, neurons) float32; below: by
    layer, what the block below puts out, (rows, width of the ends, hidden).
    """

    rows: tuple[PromptedTarget, ...]
    running: Continuation
    columns: Tensor
    neurons: dict[int, Tensor]
    below: dict[int, Tensor]


class IntegratedGradients:
    """Integrates over `steps` points (m) for the neurons of the blocks `layers`."""

    def __init__(self, language_model: LanguageModel, layers: Sequence[int], steps: int) -> None:
        self.language_model = language_model
        self.layers = tuple(layers)
        self.steps = steps
        self.continues = can_continue(language_model.model, language_model.anatomy)
        self.in_tuple = blocks_return_tuples(language_model.model, language_model.anatomy)

    def tokens_to_run(self, row: PromptedTarget) -> int:
        """What a row takes in memory, in tokens kept for a backward pass."""
        if not self.continues:
            return self.steps * len(row.inputs)
        beginning = len(row.prompt) - 1
        at_each_step = len(row.inputs) - beginning + math.ceil(VALUES_KEPT * beginning)
        return max(self.steps * at_each_step, len(row.inputs))

    def attribute(self, rows: Sequence[PromptedTarget], advance: Advance) -> Attributions:
        """Attribute the answer of every row, its whole target; advance: called with the rows, per block."""
        started = self.start(rows)
        attributed = []
        for layer in self.layers:
            attributed.append(started.neurons[layer] * self.mean_gradient(started, layer))
            advance(len(rows))
        return Attributions(torch.cat(attributed, dim=1), torch.cat(list(started.neurons.values()), dim=1))

    def start(self, rows: Sequence[PromptedTarget]) -> Started:
        """Run rows once, and keep what does not change with the neurons."""
        model, anatomy = self.language_model.model, self.language_model.anatomy
        tokens = pad([row.inputs for row in rows], self.language_model.pad_token_id, "right")
        tokens = tokens.to(self.language_model.device)
        lasts = torch.tensor([len(row.prompt) - 1 for row in rows]).to(tokens.input_ids)
        cuts = lasts if self.continues else torch.zeros_like(lasts)
        neurons = {layer: Tap(anatomy.mlp_down_projections[layer], "input") for layer in self.layers}
        below = {layer: Tap(anatomy.blocks[layer - 1], "output") for layer in self.layers if layer > 0}
        taps = [*neurons.values(), *below.values()]
        cut, read = begin(model, anatomy, tokens, cuts, self.layers[0], taps)
        ends = positions_from(cuts, cut.ends.input_ids.shape[1])
        every = torch.arange(len(rows), device=lasts.device)
        return Started(
            tuple(rows),
            running=cut.keep(every.repeat_interleave(self.steps)),
            columns=lasts - cuts,
            neurons={layer: read[tap][every, lasts].float() for layer, tap in neurons.items()},
            below={layer: taken(read[tap], ends) for layer, tap in below.items()},
        )

    def mean_gradient(self, started: Started, layer: int) -> Tensor:
        """Of the answers' probabilities by a block's neurons, over the way: (rows, neurons) float32."""
        model, anatomy, steps = self.language_model.model, self.language_model.anatomy, self.steps
        neurons, below = started.neurons[layer], started.below.get(layer)
        of_rows = torch.arange(len(neurons), device=neurons.device).repeat_interleave(steps)
        shares = (torch.arange(1, steps + 1, device=neurons.device) / steps).repeat(len(neurons))  # k / m
        points = (shares[:, None] * neurons[of_rows]).requires_grad_()
        width = started.running.ends.input_ids.shape[1]
        tokens = torch.arange(len(points), device=points.device) * width + started.columns[of_rows]
        with (
            replayed_blocks(
                model,
                anatomy,
                layer - 1,
                None if below is None else below[of_rows],
                in_tuple=self.in_tuple,
            ),
            replaced_input(model, anatomy.mlp_down_projections[layer], tokens, points),
        ):
            log_probs = self.log_probs(started)
        (gradients,) = torch.autograd.grad(log_probs.sum(), points)
        # p′ = p (log p)′: in half precision the gradient of a small probability would be lost on its way.
        slopes = log_probs.detach().exp()[:, None] * gradients
        return slopes.view(len(neurons), steps, -1).mean(dim=1)

    def log_probs(self, started: Started) -> Tensor:
        """Of every row's answer at every step: (rows × steps,) float32."""
        model, anatomy, running = self.language_model.model, self.language_model.anatomy, started.running
        reads = [
            (number * self.steps + step, column + place, token)
            for number, (row, column) in enumerate(zip(started.rows, started.columns.tolist(), strict=True))
            for step in range(self.steps)
            for place, token in enumerate(row.target)
        ]
        rows, columns, wanted = torch.tensor(reads, device=started.columns.device).T
        with head_reading(model, anatomy, rows, columns):
            logits = model(**running.forward_arguments(model)).logits[0].float()
        of_tokens = logits.log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0]
        return torch.zeros(len(running.ends.input_ids), device=rows.device).index_add(0, rows, of_tokens)


@contextmanager
def replaced_input(model: nn.Module, path: str, tokens: Tensor, values: Tensor) -> Iterator[None]:
    """Have a module take something else at some tokens; gradients flow into `values`.

    tokens: (tokens,) int64, counted through the whole batch, row by row, since OPT flattens it. values:
    (tokens, width).
    """

    def put_in(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        flat = args[0].reshape(-1, args[0].shape[-1])
        return (flat.index_put((tokens,), values.to(flat.dtype)).view(args[0].shape), *args[1:])

    handle = model.get_submodule(path).register_forward_pre_hook(put_in)
    try:
        yield
    finally:
        handle.remove()
