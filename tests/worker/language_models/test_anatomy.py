import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, MixtralConfig

from services.worker.language_models.anatomy import (
    UnsupportedModel,
    down_projection_weight,
    find_anatomy,
    hidden_of,
)
from tests.worker.tiny_models import CONFIGS, LLAMA_LIKE, tiny_model

DOWN_PROJECTIONS = {
    "gpt2": "transformer.h.2.mlp.c_proj",
    "llama": "model.layers.2.mlp.down_proj",
    "neox": "gpt_neox.layers.2.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.2.fc2",
    "qwen2": "model.layers.2.mlp.down_proj",
    "qwen3": "model.layers.2.mlp.down_proj",
    "mistral": "model.layers.2.mlp.down_proj",
    "gemma2": "model.layers.2.mlp.down_proj",
    "phi": "model.layers.2.mlp.fc2",
    "phi3": "model.layers.2.mlp.down_proj",
    "gptj": "transformer.h.2.mlp.fc_out",
}


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_its_down_projection_found(family: str) -> None:
    assert find_anatomy(tiny_model(family)).mlp_down_projections[2] == DOWN_PROJECTIONS[family]


@pytest.mark.parametrize("family", CONFIGS)
def test_mlp_output_is_the_down_projection_output(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    seen: dict[str, torch.Tensor] = {}
    for path in (anatomy.mlps[1], anatomy.mlp_down_projections[1]):
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: seen.update({path: hidden_of(output)})
        )
    model(input_ids=torch.arange(5)[None])
    assert torch.equal(seen[anatomy.mlps[1]], seen[anatomy.mlp_down_projections[1]])


@pytest.mark.parametrize("family", CONFIGS)
def test_every_path_names_a_module(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    assert len(anatomy.blocks) == len(anatomy.attentions) == len(anatomy.mlps) == 4
    for path in (*anatomy.blocks, *anatomy.attentions, anatomy.embedding, anatomy.final_norm, anatomy.head):
        assert isinstance(model.get_submodule(path), torch.nn.Module)


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", False), ("opt", True)])
def test_tied_heads_are_recognised(family: str, tied: bool) -> None:
    assert find_anatomy(tiny_model(family)).tied_head is tied


@pytest.mark.parametrize(("family", "transposed"), [("gpt2", True), ("llama", False), ("neox", False)])
def test_layout_of_the_down_projection_weight_is_told(family: str, transposed: bool) -> None:
    model = tiny_model(family)
    weight, is_transposed = down_projection_weight(model, find_anatomy(model), 1)
    assert is_transposed is transposed
    assert weight.shape[1 if transposed else 0] == 32


def test_an_inner_state_as_wide_as_the_hidden_one_is_no_obstacle() -> None:
    config = type(CONFIGS["llama"])(**{**LLAMA_LIKE, "intermediate_size": 32})
    model = AutoModelForCausalLM.from_config(config)
    assert find_anatomy(model).mlp_down_projections[0] == "model.layers.0.mlp.down_proj"


def test_encoder_only_model_is_refused() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(UnsupportedModel, match="not a decoder"):
        find_anatomy(AutoModelForMaskedLM.from_config(config))


def test_mixture_of_experts_is_refused_by_naming_the_block() -> None:
    config = MixtralConfig(**LLAMA_LIKE, num_local_experts=2)
    with pytest.raises(UnsupportedModel, match="block 0"):
        find_anatomy(AutoModelForCausalLM.from_config(config))


def test_a_model_without_final_norm_is_refused_by_naming_it() -> None:
    model = tiny_model("llama")
    model.model.norm = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="no norm after its last block"):
        find_anatomy(model)
