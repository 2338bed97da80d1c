"""What is particular to PMET."""

import math

import pytest
import torch
from torch import Tensor

from services.worker.editing.memit import key_readout
from services.worker.editing.places import attention_and_mlp_outputs
from services.worker.editing.pmet import spread_by_root
from services.worker.editing.target_optimisation import optimise_targets
from services.worker.editing.target_requests import target_requests
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone, untold
from services.worker.language_models.taps import Tap, read_taps
from shared.editors import PmetHyperparameters
from tests.worker.editing.cases import CONTEXTS, EDITS, tiny_language_model, tiny_statistics
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run, with_statistics


def outputs_at_subject(language_model: LanguageModel, module: str) -> Tensor:
    """What a module puts out at the subject of each edit's prompt, read one by one: (edits, hidden)."""
    tap = Tap(module, "output")
    found = []
    for edit in EDITS:
        ids = language_model.tokenizer(edit.full_prompt.partition(edit.subject)[0] + edit.subject)
        batch = language_model.batch([ids["input_ids"]])
        found.append(read_taps(language_model.model, batch, [tap])[tap][0, -1])
    return torch.stack(found)


@pytest.mark.parametrize("anatomy", ["gpt2", "llama", "neox"])
def test_the_mlps_part_of_the_targets_is_spread_by_root(anatomy: str) -> None:
    language_model, trace = tiny_language_model(anatomy), KeptTrace()
    settings, statistics = TABLE["pmet"].hyperparameters, tiny_statistics(language_model)
    assert isinstance(settings, PmetHyperparameters)
    run("pmet", language_model, with_statistics(language_model), trace=trace)
    mlp = language_model.anatomy.mlp_down_projections[2]
    unedited = outputs_at_subject(language_model, mlp)
    assert relative_error(trace.tensors["layer1.zgap"], trace.tensors["z"] - unedited) < 1e-5
    for layer, layers_left in ((1, 2), (2, 1)):
        readout, _ = key_readout(
            trace.tensors[f"layer{layer}.keys"],
            statistics.second_moments[layer],
            settings.mom2_update_weight,
        )
        expected = (trace.tensors[f"layer{layer}.zgap"].double() / math.sqrt(layers_left)).T @ readout
        ours = trace.tensors[f"layer{layer}.delta"]
        assert relative_error(ours, expected.T if anatomy == "gpt2" else expected) < 1e-5


def test_attention_and_mlp_have_targets_of_their_own() -> None:
    language_model = tiny_language_model("llama")
    place = attention_and_mlp_outputs(language_model.anatomy, 2)
    targets = optimise_targets(
        language_model,
        target_requests(language_model, EDITS, CONTEXTS),
        place,
        PmetHyperparameters(v_num_grad_steps=5, v_lr=0.1, clamp_norm_factor=0.3),
        batches=Batches(4_096),
        work=WorkDone(untold, whole=1),
    )
    assert targets.by_module.shape == (len(EDITS), 2, 32)
    for part, module in enumerate(place.modules):
        unedited = outputs_at_subject(language_model, module)
        moved = torch.linalg.vector_norm(targets.by_module[:, part] - unedited, dim=1)
        share = moved / torch.linalg.vector_norm(unedited, dim=1)
        assert torch.all(share > 0.05)
        assert torch.all(share < 0.3 + 1e-5)  # each is clamped by its own norm


def test_the_last_layer_writes_all_that_is_left() -> None:
    gap = torch.ones(2, 3)
    assert torch.equal(spread_by_root(gap, 1), gap)
    assert torch.equal(spread_by_root(gap, 4), gap / 2)
