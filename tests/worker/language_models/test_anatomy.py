import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    RwkvConfig,
    T5Config,
)

from services.worker.language_models.anatomy import (
    UnsupportedModel,
    down_projection_weight,
    find_anatomy,
    hidden_of,
    linear_layers,
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
    "gemma3": "model.layers.2.mlp.down_proj",
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
def test_attention_output_is_the_output_projections_output(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    seen: dict[str, torch.Tensor] = {}
    for path in (anatomy.attentions[1], anatomy.attention_outputs[1]):
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: seen.update({path: hidden_of(output)})
        )
    model(input_ids=torch.arange(5)[None])
    assert torch.equal(seen[anatomy.attentions[1]], seen[anatomy.attention_outputs[1]])


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_that_read_the_hidden_state_are_given_the_same(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    for paths in (anatomy.attention_inputs[1], anatomy.mlp_up_projections[1]):
        seen: list[torch.Tensor] = []
        for path in paths:
            model.get_submodule(path).register_forward_pre_hook(
                lambda _module, inputs, seen=seen: seen.append(inputs[0].flatten(0, -2))
            )
        model(input_ids=torch.arange(5)[None])
        assert len(seen) == len(paths) > 0
        assert all(torch.equal(given, seen[0]) for given in seen)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_linear_layer_of_a_block_has_its_place(family: str) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    named = [
        *(*anatomy.attention_inputs[2], anatomy.attention_outputs[2]),
        *(*anatomy.mlp_up_projections[2], anatomy.mlp_down_projections[2]),
    ]
    block = model.get_submodule(anatomy.blocks[2])
    assert sorted(named) == sorted(f"{anatomy.blocks[2]}.{layer.path}" for layer in linear_layers(block))


@pytest.mark.parametrize(
    ("family", "gates"), [("gpt2", ["c_fc"]), ("llama", ["gate_proj", "up_proj"]), ("phi3", ["gate_up_proj"])]
)
def test_up_projections_are_told_with_their_gates_apart_or_fused(family: str, gates: list[str]) -> None:
    found = find_anatomy(tiny_model(family)).mlp_up_projections[0]
    assert [path.rpartition(".")[2] for path in found] == gates


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


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_an_inner_state_as_wide_as_the_hidden_one_is_no_obstacle(family: str) -> None:
    config = type(CONFIGS[family])(**{**LLAMA_LIKE, "intermediate_size": 32, "pad_token_id": None})
    model = AutoModelForCausalLM.from_config(config)
    assert find_anatomy(model).mlp_down_projections[0] == "model.layers.0.mlp.down_proj"


def test_heads_wider_than_the_hidden_state_are_no_obstacle() -> None:
    config = type(CONFIGS["qwen3"])(**LLAMA_LIKE, head_dim=16)  # keys and values are as wide as the state
    model = AutoModelForCausalLM.from_config(config)
    assert find_anatomy(model).attention_outputs[0] == "model.layers.0.self_attn.o_proj"


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("config", "kind", "missing"),
    [
        (BertConfig(**SMALL, num_attention_heads=2), AutoModelForMaskedLM, "does not continue texts"),
        (BertConfig(**SMALL, num_attention_heads=2), AutoModelForCausalLM, "no norm after its last block"),
        (
            T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
            AutoModelForSeq2SeqLM,
            "it has an encoder",
        ),
        (MambaConfig(**SMALL, state_size=4), AutoModelForCausalLM, "not every block has attention"),
        (RwkvConfig(**SMALL), AutoModelForCausalLM, "not every block has attention"),
    ],
    ids=lambda part: getattr(part, "model_type", None),
)
def test_a_model_of_another_kind_is_refused_by_naming_what_it_lacks(
    config: PreTrainedConfig, kind: type, missing: str
) -> None:
    with pytest.raises(UnsupportedModel, match=missing):
        find_anatomy(kind.from_config(config))


@pytest.mark.parametrize(
    ("config", "block"),
    [
        (MixtralConfig(**LLAMA_LIKE, num_local_experts=2), 0),
        (Qwen2MoeConfig(**LLAMA_LIKE, num_experts=2, num_experts_per_tok=1, mlp_only_layers=[0, 1]), 2),
    ],
    ids=["mixtral", "qwen2_moe"],
)
def test_a_mixture_of_experts_has_no_mlps_to_write_to_and_says_in_which_block(
    config: PreTrainedConfig, block: int
) -> None:
    anatomy = find_anatomy(AutoModelForCausalLM.from_config(config))
    assert anatomy.without_mlps == f"the MLP of block {block} is a mixture of experts"
    assert anatomy.mlps == anatomy.mlp_down_projections == anatomy.mlp_up_projections == ()
    assert len(anatomy.blocks) == len(anatomy.attention_outputs) == 4


def test_a_block_without_attention_is_refused_by_its_number() -> None:
    model = tiny_model("llama")
    model.model.layers[2].self_attn = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="block 2 has no attention module"):
        find_anatomy(model)


def test_a_block_without_mlp_is_refused_by_its_number() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="block 1 has no MLP down-projection"):
        find_anatomy(model)


def test_a_model_without_final_norm_is_refused_by_naming_it() -> None:
    model = tiny_model("llama")
    model.model.norm = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="no norm after its last block"):
        find_anatomy(model)
