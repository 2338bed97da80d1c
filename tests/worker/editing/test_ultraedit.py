"""What is particular to UltraEdit."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.worker.editing.editor import EditFailed
from services.worker.editing.lifelong_normalisation import LifelongNormalisation
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from shared.editors import UltraEditHyperparameters
from tests.worker.editing.cases import EDITS, parameters_of, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import nothing, run

CPU = torch.device("cpu")
LAYERS, LR, BATCHES = (1, 2), 0.02, ((0, 3), (3, 4))
SETTINGS = UltraEditHyperparameters(layers=LAYERS, lr=LR, batch_size=None, batches=BATCHES)


def features_one_by_one(
    language_model: LanguageModel, model: nn.Module, layer: int, edits: range
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Keys and gradients where targets are predicted, each edit in a plain pass of its own."""
    module = model.get_submodule(language_model.anatomy.mlp_down_projections[layer])
    keys, gradients = [], []
    for edit in (EDITS[index] for index in edits):
        prompt = encode_prompts(language_model.tokenizer, [edit.full_prompt])[0]
        target = encode_target(language_model.tokenizer, edit.target_new)
        seen: dict[str, Tensor] = {}

        def keep(_module: nn.Module, args: Any, output: Tensor, seen: dict[str, Tensor] = seen) -> None:
            output.retain_grad()
            seen.update(key=args[0], output=output)

        with module.register_forward_hook(keep):
            logits = model(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
        nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").backward()
        predicting = slice(len(prompt) - 1, None)
        keys.append(seen["key"].detach()[0, predicting].double().numpy())
        gradient = seen["output"].grad
        assert gradient is not None
        gradients.append(gradient[0, predicting].double().numpy())
    return np.concatenate(keys), np.concatenate(gradients)


@pytest.mark.parametrize("anatomy", ["gpt2", "llama"])
def test_changes_are_those_of_a_plain_implementation(anatomy: str) -> None:
    """Edit by edit in passes of their own, statistics over all rows so far, and a dense solve."""
    language_model = tiny_language_model(anatomy)
    model = copy.deepcopy(language_model.model).requires_grad_(True)
    rows: dict[int, list[NDArray[Any]]] = {layer: [] for layer in LAYERS}
    expected = {layer: np.zeros(()) for layer in LAYERS}
    for first, end in BATCHES:
        changes = {}
        for layer in LAYERS:
            keys, gradients = features_one_by_one(language_model, model, layer, range(first, end))
            rows[layer].append(np.hstack([keys, gradients]))
            so_far = np.vstack(rows[layer])
            normalised = (rows[layer][-1] - so_far.mean(axis=0)) / (so_far.std(axis=0, ddof=1) + 1e-7)
            key_part, gradient_part = np.hsplit(normalised, [keys.shape[1]])
            values = -LR * (key_part**2).sum(axis=1, keepdims=True) * gradient_part
            changes[layer] = np.linalg.solve(keys.T @ keys + np.eye(keys.shape[1]), keys.T @ values)
        for layer, change in changes.items():
            weight, transposed = down_projection_weight(model, language_model.anatomy, layer)
            with torch.no_grad():
                weight += torch.from_numpy(change if transposed else change.T)
            expected[layer] = expected[layer] + (change if transposed else change.T)
    outcome = run("ultraedit", language_model, nothing(language_model), hyperparameters=SETTINGS)
    for layer, delta in zip(LAYERS, parameters_of(outcome).values(), strict=True):
        assert relative_error(delta.dense(CPU), torch.from_numpy(expected[layer])) < 1e-4


def test_statistics_do_not_depend_on_how_rows_come() -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double() * 3 + 100
    at_once, in_parts = LifelongNormalisation(7, CPU), LifelongNormalisation(7, CPU)
    at_once.add(rows)
    for part in rows.split([1, 20, 29]):
        in_parts.add(part)
    expected = (rows - rows.mean(dim=0)) / rows.std(dim=0)
    assert relative_error(at_once.normalised(rows), expected) < 1e-6
    assert relative_error(in_parts.normalised(rows), expected) < 1e-6


def test_a_feature_that_never_varies_is_nothing() -> None:
    normalisation = LifelongNormalisation(2, CPU)
    rows = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    normalisation.add(rows)
    assert normalisation.normalised(rows)[:, 0].tolist() == [0, 0]


def test_one_target_token_alone_is_refused() -> None:
    language_model = tiny_language_model("gpt2")
    with pytest.raises(EditFailed, match="one target token"):
        run("ultraedit", language_model, nothing(language_model), edits=EDITS[:1])


def test_every_batch_has_its_loss_before_it_is_written() -> None:
    language_model = tiny_language_model("gpt2")
    outcome = run("ultraedit", language_model, nothing(language_model), hyperparameters=SETTINGS)
    first = run(
        "ultraedit",
        language_model,
        nothing(language_model),
        edits=EDITS[:3],
        hyperparameters=SETTINGS.model_copy(update={"batches": None}),
    )
    assert outcome.shared_loss
    assert len(outcome.losses[0]) == len(BATCHES)
    assert outcome.losses[0][:1] == first.losses[0]


@pytest.mark.parametrize(
    ("block_count", "first", "last"), [(28, 18, 26), (32, 29, 30), (6, 4, 4), (12, 8, 10), (1, 0, 0)]
)
def test_late_blocks_are_edited_by_default(block_count: int, first: int, last: int) -> None:
    assert UltraEditHyperparameters().edited_layers(block_count) == tuple(range(first, last + 1))
