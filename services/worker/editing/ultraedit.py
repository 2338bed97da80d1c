"""UltraEdit: one step along normalised gradients, fitted to the keys (Gu et al. 2025, arXiv 2505.14679).

The publication writes to down-projections (GPT-J, Mistral) or to the layers before them (Llama 3, Qwen 2.5),
and shares the normalisation among layers of one shape; here it is down-projections, each with its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.gradient_factors import Factors, gradient_factors, linear_weight
from services.worker.editing.layer_updates import product, ridge_readout
from services.worker.editing.lifelong_normalisation import LifelongNormalisation
from services.worker.editing.target_rows import RowBatch, start_rows, target_rows
from services.worker.editing.trace import Trace
from services.worker.editing.written_deltas import WrittenDeltas, writing_to
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone
from services.worker.language_models.prompted_target import PromptedTarget
from shared.editors import UltraEditHyperparameters
from shared.edits import Edit

RIDGE = 1.0  # the publication's; it decides how short a key must be to be written to with less than its all


def check_first_batch(
    language_model: LanguageModel, edits: Sequence[Edit], hyperparameters: UltraEditHyperparameters
) -> None:
    """Raise EditFailed where the first batch has one target token; BatchesDoNotFit, see `ranges`."""
    first, end = hyperparameters.ranges(len(edits))[0]
    targets = [encode_target(language_model.tokenizer, edit.target_new) for edit in edits[first:end]]
    if sum(map(len, targets)) == 1:
        raise EditFailed("the first batch has one target token; what varies cannot be told from just one")


class UltraEdit:
    """The editor `ultraedit`."""

    def edit(
        self,
        language_model: LanguageModel,
        edits: Sequence[Edit],
        hyperparameters: UltraEditHyperparameters,
        materials: Materials,
        run: EditingRun,
    ) -> EditOutcome:
        """See `Editor.edit`. Traces `keys`, `gradients` and `delta` of every `batchB.layerL`."""
        layers = hyperparameters.edited_layers(len(language_model.anatomy.blocks))
        rows = [of_edit[0] for of_edit in target_rows(language_model, edits)]
        ranges = hyperparameters.ranges(len(rows))
        check_first_batch(language_model, edits, hyperparameters)
        work = WorkDone(run.progress, whole=len(rows))
        losses: list[float] = []
        names = [f"{language_model.anatomy.mlp_down_projections[layer]}.weight" for layer in layers]
        with writing_to(language_model.model, names) as written:
            step = Step(language_model, layers, hyperparameters.lr, written)
            for number, (first, end) in enumerate(ranges):
                features = read_features(
                    language_model, rows[first:end], first, layers, run.batches(language_model), work
                )
                losses.append(features.loss)
                step.take(features, run.trace, f"batch{number}.")
        return EditOutcome(
            modification=written.modification(language_model.revision),
            edited_layers=layers,
            losses=(tuple(losses),),
            shared_loss=True,
        )


@dataclass(frozen=True)
class Features:
    """What layers' down-projections read, and what is asked of their outputs, where targets are predicted.

    by_layer: keys, (tokens, d_ff), and the gradients of the summed −log p of the target tokens by the layer's
    output there, (tokens, hidden), both float64; loss: the mean of −log p, in nats.
    """

    by_layer: dict[int, tuple[Tensor, Tensor]]
    loss: float


def read_features(
    language_model: LanguageModel,
    rows: Sequence[PromptedTarget],
    first: int,
    layers: Sequence[int],
    batches: Batches,
    work: WorkDone,
) -> Features:
    """The features of some edits, token by token, with the model as it is.

    first: index of the first edit among all. work: advanced by one per row. Raises EditFailed when the loss
    of an edit is not finite.
    """
    model, paths = language_model.model, language_model.anatomy.mlp_down_projections
    weights = [linear_weight(model, paths[layer]) for layer in layers]
    edits: list[Tensor] = []  # that the tokens read belong to
    found: list[dict[str, Factors]] = []
    total = 0.0

    def read(chosen: Sequence[int]) -> None:
        nonlocal total
        batch, _ = start_rows(language_model, [rows[index] for index in chosen], layers[0])
        counts = torch.tensor([len(rows[index].target) for index in chosen], device=language_model.device)
        losses, factors = gradient_factors(
            model, weights, lambda: batch.surprise(language_model) * counts, where_predicting(batch)
        )
        for index, value in zip(chosen, losses.tolist(), strict=True):
            if not math.isfinite(value):
                raise EditFailed(f"its loss is {value}", first + index)
        edits.append(torch.tensor(chosen, device=counts.device).repeat_interleave(counts))
        found.append(factors)
        total += float(losses.sum())
        work.advance(len(chosen))

    batches.run("edits were read", [len(row.inputs) for row in rows], read)
    in_order = torch.cat(edits).argsort(stable=True)
    by_layer = {
        layer: (
            torch.cat([part[weight.path].inputs for part in found])[in_order].double(),
            torch.cat([part[weight.path].outputs for part in found])[in_order].double(),
        )
        for layer, weight in zip(layers, weights, strict=True)
    }
    return Features(by_layer, loss=total / len(in_order))


def where_predicting(batch: RowBatch) -> Callable[[Tensor, Tensor], Factors]:
    """Chooses the tokens after which the targets' tokens are predicted, row by row."""
    rows, columns = batch.predicting()
    tokens = rows * batch.tokens.input_ids.shape[1] + columns  # OPT flattens its batch inside a block

    def choose(inputs: Tensor, gradients: Tensor) -> Factors:
        keys, wanted = inputs.flatten(0, -2)[tokens], gradients.flatten(0, -2)[tokens]
        return Factors(keys.float(), wanted.float())

    return choose


class Step:
    """Writes one batch after another, with the normalisation that all of them so far make up."""

    def __init__(
        self, language_model: LanguageModel, layers: Sequence[int], lr: float, written: WrittenDeltas
    ) -> None:
        self.language_model = language_model
        self.layers = layers
        self.lr = lr
        self.written = written
        self.normalisations: dict[int, LifelongNormalisation] = {}

    def take(self, features: Features, trace: Trace, prefix: str) -> None:
        """Write to every layer what the features of a batch ask for."""
        anatomy = self.language_model.anatomy
        for layer in self.layers:
            keys, gradients = features.by_layer[layer]
            values = self.wanted_values(layer, keys, gradients)
            weight, transposed = down_projection_weight(self.language_model.model, anatomy, layer)
            readout = ridge_readout(keys, keys[:0], RIDGE)
            delta = product(values, readout, transposed=transposed, shape=weight.shape)
            if not bool(torch.isfinite(delta.dense(keys.device)).all()):
                raise EditFailed(f"the change of layer {layer} is not finite")
            self.written.add(f"{anatomy.mlp_down_projections[layer]}.weight", delta)
            trace.keep(f"{prefix}layer{layer}.keys", keys)
            trace.keep(f"{prefix}layer{layer}.gradients", gradients)
            trace.keep(f"{prefix}layer{layer}.delta", delta.dense(keys.device))

    def wanted_values(self, layer: int, keys: Tensor, gradients: Tensor) -> Tensor:
        """What the layer shall put out more: v = −η ‖k̂‖² ĝ of normalised k and g, (tokens, hidden)."""
        features = torch.cat([keys, gradients], dim=1)
        if layer not in self.normalisations:
            self.normalisations[layer] = LifelongNormalisation(features.shape[1], features.device)
        self.normalisations[layer].add(features)
        normalised = self.normalisations[layer].normalised(features)
        lengths: Tensor = normalised[:, : keys.shape[1]].square().sum(dim=1, keepdim=True)
        return -self.lr * lengths * normalised[:, keys.shape[1] :]
