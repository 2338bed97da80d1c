"""What is particular to WISE."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.worker.editing.editor import EditOutcome
from services.worker.editing.side_memory import Projection, SideMemory
from services.worker.editing.wise import routing_threshold
from services.worker.language_models.batching import encode_prompts, pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.modification import (
    ModificationMismatch,
    read_modification,
    write_modification,
)
from shared.editors import WiseHyperparameters
from tests.worker.editing.cases import EDITS, target_log_probs, tiny_language_model
from tests.worker.editing.parity import load_parity, relative_error
from tests.worker.editing.table import TABLE, run, with_contexts
from tests.worker.scarce_memory import room_for_gradients_of

PROMPTS = [*(edit.full_prompt for edit in EDITS), "The old house is small and quiet"]


def wise(language_model: LanguageModel, **changes: object) -> EditOutcome:
    settings = TABLE["wise"].hyperparameters.model_copy(update=changes)
    return run("wise", language_model, with_contexts(language_model), hyperparameters=settings)


def memory_of(outcome: EditOutcome) -> SideMemory:
    assert isinstance(outcome.modification, SideMemory)
    return outcome.modification


def change_of(language_model: LanguageModel, outcome: EditOutcome) -> Tensor:
    return memory_of(outcome).projection.weight - Projection.of_block(language_model, 2).weight


@torch.no_grad()
def logits(language_model: LanguageModel, ids: list[int]) -> Tensor:
    found: Tensor = language_model.model(torch.tensor([ids])).logits[0]
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_token_is_routed_alike_whatever_stands_around_its_sequence(family: str, side: str) -> None:
    language_model = tiny_language_model(family)
    memory = memory_of(wise(language_model))
    prompts = encode_prompts(language_model.tokenizer, PROMPTS)
    batch = pad(prompts, language_model.pad_token_id, "left" if side == "left" else "right")
    rows = torch.arange(len(prompts))
    with torch.no_grad(), memory.applied(language_model) as edited:
        together = edited.model(**batch.forward_arguments(edited.model)).logits
        alone = torch.stack([logits(edited, prompt)[-1] for prompt in prompts])
    assert torch.allclose(together[rows, batch.columns(batch.lengths - 1)], alone, atol=1e-3)


def test_what_comes_later_does_not_change_how_a_token_is_routed() -> None:
    language_model = tiny_language_model("gpt2")
    memory = memory_of(wise(language_model))
    prompt = encode_prompts(language_model.tokenizer, PROMPTS)[0]
    with memory.applied(language_model) as edited:
        assert torch.allclose(
            logits(edited, prompt + prompt)[: len(prompt)], logits(edited, prompt), atol=1e-4
        )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_beyond_every_distance_the_main_memory_answers_bit_for_bit(family: str) -> None:
    language_model = tiny_language_model(family)
    memory = memory_of(wise(language_model))
    never = SideMemory(memory.layer, memory.projection, 1e9, "r1")
    prompt = encode_prompts(language_model.tokenizer, PROMPTS)[0]
    expected = logits(language_model, prompt)
    with never.applied(language_model) as edited:
        assert torch.equal(logits(edited, prompt), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_below_every_distance_the_model_has_the_side_memorys_weights(family: str) -> None:
    language_model = tiny_language_model(family)
    memory = memory_of(wise(language_model))
    always = SideMemory(memory.layer, memory.projection, -1.0, "r1")
    prompt = encode_prompts(language_model.tokenizer, PROMPTS)[0]
    with always.applied(language_model) as edited:
        found = logits(edited, prompt)
    weight = language_model.model.get_parameter(f"{language_model.anatomy.mlp_down_projections[2]}.weight")
    side = memory.projection.weight
    weight.copy_(side.T if family == "gpt2" else side)
    assert torch.allclose(found, logits(language_model, prompt), atol=1e-4)


def test_a_shard_changes_its_share_of_the_weights_and_none_too_far() -> None:
    language_model = tiny_language_model("gpt2")
    change = change_of(
        language_model, wise(language_model, edits_per_shard=4, density=1.0, norm_constraint=0.1)
    )
    assert float((change != 0).float().mean()) == pytest.approx(0.6, abs=0.03)
    assert float(change.abs().max()) == pytest.approx(0.1, abs=1e-6)


def test_shards_learn_from_their_own_edits_alone() -> None:
    language_model = tiny_language_model("gpt2")
    outcome = wise(language_model, edits_per_shard=2)
    settings = TABLE["wise"].hyperparameters
    materials = with_contexts(language_model)
    first = run("wise", language_model, materials, edits=EDITS[:2], hyperparameters=settings)
    assert outcome.losses[0][:20] == pytest.approx(first.losses[0], rel=1e-4)
    assert len(outcome.losses[0]) == 40


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_trained_models_take_on_the_edits(family: str) -> None:
    parity = load_parity(family, "memit_1layer")
    settings = WiseHyperparameters(
        layers=(2,),
        n_iter=40,
        edit_lr=0.03,
        mask_ratio=1.0,
        alpha=1.0,
        beta=10.0,
        gamma=5.0,
        irrelevant_count=10,
    )
    outcome = run(
        "wise",
        parity.language_model,
        with_contexts(parity.language_model),
        edits=parity.edits,
        hyperparameters=settings,
    )
    before = target_log_probs(parity.language_model, parity.edits)
    with outcome.modification.applied(parity.language_model) as edited:
        assert (target_log_probs(edited, parity.edits) - before).mean() > 3


def test_the_threshold_is_a_share_of_the_least_difference_but_never_below_alpha() -> None:
    settings = WiseHyperparameters(alpha=2.0, act_ratio=0.5)
    assert routing_threshold(torch.tensor([8.0, 6.0]), settings) == 3.0
    assert routing_threshold(torch.tensor([8.0, 0.1]), settings) == 2.0


def test_edits_whose_gradients_do_not_fit_into_memory_at_once_are_made_alike_in_parts() -> None:
    language_model = tiny_language_model("gpt2")
    expected = memory_of(wise(language_model))
    memory = GpuMemory()
    block = language_model.model.get_submodule(language_model.anatomy.blocks[3])
    with room_for_gradients_of(2, block):
        settings = TABLE["wise"].hyperparameters
        found = run(
            "wise", language_model, with_contexts(language_model), hyperparameters=settings, memory=memory
        )
    assert relative_error(memory_of(found).projection.weight, expected.projection.weight) < 1e-3
    assert len(memory.warnings) == 1


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_side_memory_of_another_model_is_refused(family: str) -> None:
    memory = memory_of(wise(tiny_language_model("gpt2")))
    narrow = Projection(memory.projection.weight[:, 1:], memory.projection.bias)
    for wrong in (SideMemory(9, memory.projection, 1.0, "r1"), SideMemory(2, narrow, 1.0, "r1")):
        with pytest.raises(ModificationMismatch), wrong.applied(tiny_language_model(family)):
            pass


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"bias": torch.zeros(3)}, {"layer": 2, "threshold": 1.0}),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(4)}, {"layer": 2, "threshold": 1.0}),
        ({"weight": torch.zeros(3)}, {"layer": 2, "threshold": 1.0}),
        ({"weight": torch.zeros(3, 4)}, {"layer": 2}),
        ({"weight": torch.zeros(3, 4)}, {"layer": 2, "threshold": "far"}),
    ],
)
def test_a_damaged_side_memory_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], header: dict[str, object]
) -> None:
    path = tmp_path / "side.safetensors"
    write_modification(path, "side_memory", "r1", tensors, **header)
    with pytest.raises(ModificationMismatch):
        SideMemory.stored(read_modification(path))
