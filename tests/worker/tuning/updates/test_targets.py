"""Adapters stand where the recipe says, in any family, and not where it is frozen."""

from __future__ import annotations

from typing import Any

import pytest

from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import Frozen, frozen_by
from services.worker.tuning.updates import check_update_fits, trainable
from services.worker.tuning.updates.targets import adapted_projections, rescaled_projections
from shared.recipes import BitFitUpdate, Freeze, FullUpdate, Ia3Update, LoraUpdate, RsLoraUpdate, Update
from tests.worker.tuning.models import tiny_language_model
from tests.worker.tuning.updates.table import FAMILIES, MERGEABLE, WITH_BIASES, learning_names

FROZEN = Frozen((1, 2))


def test_full_update_learns_all_but_the_frozen_blocks() -> None:
    every = set(dict(tiny_language_model().model.named_parameters()))
    frozen = {name for name in every if name.startswith(("transformer.h.1.", "transformer.h.2."))}
    assert learning_names("gpt2", FullUpdate(), FROZEN) == every - frozen


@pytest.mark.parametrize(("family", "projections"), [("gpt2", 4), ("llama", 7), ("neox", 4)])
@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_adapters_stand_on_every_linear_projection_of_the_unfrozen_blocks(
    family: str, projections: int, kind: str
) -> None:
    names = learning_names(family, MERGEABLE[kind], FROZEN)
    assert all("lora_" in name for name in names)
    assert len(names) == 2 * 2 * projections  # two blocks, and two factors for each projection


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_are_all_there_is(family: str) -> None:
    model = tiny_language_model(family)
    every, attention, mlp = (
        set(adapted_projections(model, LoraUpdate(targets=targets), Frozen()))
        for targets in ("all", "attention", "mlp")
    )
    assert attention | mlp == every
    assert not attention & mlp
    assert {path for inputs in model.anatomy.attention_inputs for path in inputs} <= attention
    assert set(model.anatomy.mlp_down_projections) <= mlp


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("gpt2", {"attn.c_attn", "mlp.c_proj"}),
        ("llama", {"self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"}),
        ("opt", {"self_attn.k_proj", "self_attn.v_proj", "fc2"}),
        ("gptj", {"attn.k_proj", "attn.v_proj", "mlp.fc_out"}),
        ("neox", {"attention.query_key_value", "mlp.dense_4h_to_h"}),
    ],
)
def test_keys_values_and_the_inner_state_are_rescaled(family: str, layers: set[str]) -> None:
    model = tiny_language_model(family)
    found, inner = rescaled_projections(model, Ia3Update(), FROZEN)
    assert set(found) == {f"{model.anatomy.blocks[block]}.{layer}" for block in (0, 3) for layer in layers}
    assert inner == [model.anatomy.mlp_down_projections[block] for block in (0, 3)]


def test_single_frozen_projections_get_no_adapter() -> None:
    model = tiny_language_model()
    frozen = frozen_by(Freeze("parameters:*.mlp.c_proj.weight"), model, ())
    found = adapted_projections(model, LoraUpdate(targets="mlp"), frozen)
    assert set(found) == {f"transformer.h.{block}.mlp.c_fc" for block in range(4)}


@pytest.mark.parametrize("family", WITH_BIASES)
def test_biases_alone_learn(family: str) -> None:
    names = learning_names(family, BitFitUpdate(), FROZEN)
    every = {name for name, _ in tiny_language_model(family).model.named_parameters()}
    frozen = tuple(f"{tiny_language_model(family).anatomy.blocks[block]}." for block in (1, 2))
    assert names == {name for name in every if name.endswith(".bias") and not name.startswith(frozen)}


@pytest.mark.parametrize(
    ("family", "update", "frozen", "reason"),
    [
        ("llama", BitFitUpdate(), Frozen(), "LlamaForCausalLM has no biases"),
        ("gpt2", BitFitUpdate(), Frozen((0, 1, 2, 3), ("transformer.ln_f.bias",)), "every bias is frozen"),
        ("gpt2", LoraUpdate(), Frozen((0, 1, 2, 3)), "every block is frozen"),
        ("llama", Ia3Update(), Frozen((0, 1, 2, 3)), "every block is frozen"),
    ],
)
def test_update_that_leaves_nothing_to_learn_is_refused(
    family: str, update: Update, frozen: Frozen, reason: str
) -> None:
    model = tiny_language_model(family)
    with pytest.raises(RecipeDoesNotFit, match=reason):
        check_update_fits(model, update, frozen)
    with pytest.raises(RecipeDoesNotFit, match=reason), trainable(model, update, frozen):
        pass


def test_full_update_with_everything_frozen_is_refused() -> None:
    model = tiny_language_model()
    with pytest.raises(RecipeDoesNotFit, match="every parameter is frozen"):
        check_update_fits(model, FullUpdate(), frozen_by(Freeze("parameters:*"), model, ()))


@pytest.mark.parametrize(
    ("update", "scale"), [(LoraUpdate(rank=4, alpha=3), 0.75), (RsLoraUpdate(rank=4, alpha=3), 1.5)]
)
def test_scale_of_the_adapters_is_alpha_by_rank_or_its_root(
    update: LoraUpdate | RsLoraUpdate, scale: float
) -> None:
    model = tiny_language_model()
    with trainable(model, update, Frozen()):
        adapted: Any = model.model.get_submodule("transformer.h.0.mlp.c_proj")
        assert adapted.scaling["default"] == scale
