"""Stressors on whole models: what they change, what they leave, and that all of it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from services.worker.editing.codebook import Codebook, Entries
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from services.worker.stressing import adapters
from services.worker.stressing.adapters import check_adapter
from services.worker.stressing.apply import WeightStressor, stressed
from services.worker.stressing.footprint import StressFailed
from services.worker.stressing.projections import projection_weights
from services.worker.stressing.quantisation import int8_round_trip
from shared.adapters import adapter_directory
from shared.model_files import ModelNotUsable
from shared.settings import Settings
from shared.stressors import Bfloat16, Float16, Int4, Int8, Interpolation, LoraMerge, MagnitudePruning
from tests.worker.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

# peft asks transformers under a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

STRESSORS: list[WeightStressor] = [
    Int8(),
    Int4(group_size=16),
    Bfloat16(),
    Float16(),
    MagnitudePruning(),
    Interpolation(),
]


@cache
def language_model(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    return prepare_language_model(tiny_model(family).to(dtype), tiny_tokenizer(), family, "r1")


def edit_of(base: LanguageModel) -> WeightDelta:
    """A change of one down-projection and of the embedding, which a head may be tied to."""
    generator = torch.Generator().manual_seed(3)
    down, embedding = f"{base.anatomy.mlp_down_projections[1]}.weight", f"{base.anatomy.embedding}.weight"
    rows, columns = base.model.get_parameter(down).shape
    factors = (torch.randn(size, generator=generator) for size in ((rows, 2), (2, columns)))
    values = torch.randn(base.model.get_parameter(embedding).shape, generator=generator)
    return WeightDelta({down: LowRank(*factors), embedding: Dense(values)}, "r1")


@contextmanager
def left_as_it_was(base: LanguageModel) -> Iterator[None]:
    """The same modules, hooks, parameters, dtypes and bits before and after."""

    def state() -> list[tuple[str, int, torch.dtype, bool]]:
        return [(n, id(p), p.dtype, p.requires_grad) for n, p in base.model.named_parameters()]

    def modules() -> list[tuple[str, int, int, bool]]:
        return [(n, id(m), len(m._forward_hooks), m.training) for n, m in base.model.named_modules()]

    before, values = (state(), modules()), [p.clone() for p in base.model.parameters()]
    yield
    assert (state(), modules()) == before
    assert all(torch.equal(p, value) for p, value in zip(base.model.parameters(), values, strict=True))


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model.model(input_ids=torch.arange(2, 14)[None]).logits.float()
    return output


@pytest.mark.parametrize("stressor", STRESSORS, ids=lambda stressor: stressor.kind)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_stressor_moves_the_edited_model_and_is_taken_away_bit_for_bit(
    family: str, stressor: WeightStressor
) -> None:
    base = language_model(family)
    with left_as_it_was(base):
        with edit_of(base).applied(base) as edited:
            unstressed = logits(edited)
        with stressed(base, edit_of(base), stressor) as found:
            moved = logits(found.language_model)
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, unstressed)
    assert 0 < found.footprint.changed_share <= 1
    assert 0 < found.footprint.distance < 1


@pytest.mark.parametrize("stressor", STRESSORS, ids=lambda stressor: stressor.kind)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_base_is_given_back_when_the_work_inside_fails(stressor: WeightStressor, dtype: torch.dtype) -> None:
    base = language_model("gemma2", dtype)
    with (
        left_as_it_was(base),
        suppress(ZeroDivisionError),
        stressed(base, edit_of(base), stressor),
    ):
        raise ZeroDivisionError


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_projections_of_the_edited_model_are_quantised_by_output_and_nothing_else(family: str) -> None:
    base = language_model(family)
    projections = projection_weights(base)
    with edit_of(base).applied(base):
        edited = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    with stressed(base, edit_of(base), Int8()):
        for name, parameter in base.model.named_parameters():
            weight = edited[name]
            if name in projections:
                weight = int8_round_trip(weight.T).T if projections[name] else int8_round_trip(weight)
            assert torch.equal(parameter, weight), name
    assert len(projections) == {"gpt2": 4 * 4, "llama": 4 * 7}[family]


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_tied_head_stays_tied_when_the_model_is_cast(family: str) -> None:
    base = language_model(family)
    assert base.anatomy.tied_head
    with stressed(base, None, Bfloat16()) as found:
        head = base.model.get_submodule(base.anatomy.head).weight
        assert head is base.model.get_submodule(base.anatomy.embedding).weight
        assert found.language_model.dtype is torch.bfloat16
        assert found.footprint.weights == sum(p.numel() for p in base.model.parameters())


def test_weights_that_float16_does_not_hold_are_named() -> None:
    base = prepare_language_model(tiny_model("llama"), tiny_tokenizer(), "llama", "r1")
    name = "model.layers.2.mlp.down_proj.weight"
    with torch.no_grad():
        base.model.get_parameter(name)[0, 0] = 1e6
    with (
        left_as_it_was(base),
        pytest.raises(StressFailed, match=f"{name} has weights beyond what float16 holds"),
        stressed(base, None, Float16()),
    ):
        pass


def test_interpolation_is_base_plus_the_rest_of_the_edit() -> None:
    base = language_model("llama")
    delta = edit_of(base)
    names = list(delta.parameters)
    before = {name: base.model.get_parameter(name).double() for name in names}
    with delta.applied(base):
        edited = {name: base.model.get_parameter(name).double() for name in names}
    with stressed(base, delta, Interpolation(alpha=0.25)) as found:
        for name in names:
            expected = before[name] + 0.75 * (edited[name] - before[name])
            torch.testing.assert_close(
                base.model.get_parameter(name).double(), expected, rtol=1e-6, atol=1e-6
            )
    assert found.footprint.weights == sum(value.numel() for value in before.values())


def test_whole_interpolation_is_the_base_itself() -> None:
    base = language_model("gpt2")
    expected = logits(base)
    with stressed(base, edit_of(base), Interpolation(alpha=1)) as found:
        assert torch.equal(logits(found.language_model), expected)


def codebook(base: LanguageModel) -> Codebook:
    """One entry that holds everywhere."""
    width = base.model.config.hidden_size
    entries = Entries(torch.zeros(1, width), torch.tensor([1e6]))
    return Codebook(2, entries, torch.linspace(-1, 1, width)[None], "r1")


@pytest.mark.parametrize("stressor", STRESSORS, ids=lambda stressor: stressor.kind)
def test_what_is_no_weight_stays_and_works_on_the_stressed_model(stressor: WeightStressor) -> None:
    base = language_model("llama")
    modification = codebook(base)
    with left_as_it_was(base):
        with stressed(base, modification, stressor) as found:
            combined = logits(found.language_model)
            nothing = found.footprint.changed == 0
        with stressed(base, None, stressor) as alone, modification.applied(alone.language_model) as both:
            expected = logits(both)
    assert torch.equal(combined, expected)
    assert nothing == isinstance(stressor, Interpolation)


def save_adapter(base: LanguageModel, folder: Path, **changes: object) -> LoraConfig:
    """A random adapter on some projections, as peft saves it; the base is left as it was."""
    targets = [base.anatomy.attention_inputs[0][0], base.anatomy.mlp_down_projections[1]]
    settings = {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": targets,
        "fan_in_fan_out": "gpt2" in base.reference,
    }
    torch.manual_seed(5)
    other = tiny_model(base.reference)
    wrapped = get_peft_model(other, LoraConfig(**{**settings, "init_lora_weights": False, **changes}))
    wrapped.save_pretrained(folder)
    return wrapped


def as_peft_merges(base: LanguageModel, wrapped: object) -> torch.Tensor:
    merged = wrapped.merge_and_unload()  # type: ignore[attr-defined]
    return logits(prepare_language_model(merged, tiny_tokenizer(), base.reference, "r1"))


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapter_is_merged_as_peft_merges_it_and_taken_away(
    family: str, changes: dict[str, object], tmp_path: Path
) -> None:
    base = language_model(family)
    wrapped = save_adapter(base, tmp_path, **changes)
    with left_as_it_was(base), stressed(base, None, LoraMerge(adapter="local:x"), tmp_path) as found:
        merged = logits(found.language_model)
    torch.testing.assert_close(merged, as_peft_merges(base, wrapped))
    assert found.footprint.changed > 0


def without_a_factor(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[next(key for key in tensors if "lora_B" in key)]
    save_file(tensors, folder / "adapter_model.safetensors")


def of_another_model(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {key.replace("layers.0", "layers.9"): value for key, value in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors")


def of_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    wide = {key: value.repeat(1, 2) if "lora_A" in key else value for key, value in tensors.items()}
    save_file(wide, folder / "adapter_model.safetensors")


def of_another_rank(folder: Path) -> None:
    configure(folder, rank_pattern={r"self_attn\.[qk]_proj": 4})


def of_another_kind(folder: Path) -> None:
    configure(folder, use_dora=True)


def configure(folder: Path, **changes: object) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_a_factor, "lora_B.weight is absent, should be 32×2"),
        (of_another_model, "which the model has not"),
        (of_another_shape, "lora_A.weight is 2×64, should be 2×32"),
        (of_another_rank, "lora_A.weight is 2×32, should be 4×32"),
        (of_another_kind, "lora_magnitude_vector is absent"),
        (truncated, "cannot be read"),
    ],
)
def test_adapter_that_does_not_fit_is_refused_and_the_model_left_alone(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    base = language_model("llama")
    save_adapter(base, tmp_path, rank_pattern={"self_attn.q_proj": 2})
    check_adapter(base.model, tmp_path)
    damage(tmp_path)
    with pytest.raises(StressFailed, match=reason):  # from the header alone
        check_adapter(base.model, tmp_path)
    with (
        left_as_it_was(base),
        pytest.raises(StressFailed, match=reason),
        stressed(base, None, LoraMerge(adapter="local:x"), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "its modules_to_save"),
        ({"init_lora_weights": "pissa"}, "begun by pissa"),
        ({"something_new": True}, "its something_new"),
        ({"r": 0}, "its r is not valid"),
        ({"r": 4097}, "its r is not valid"),
        ({"r": "3"}, "its r is not valid"),
        ({"r": True}, "its r is not valid"),
        ({"lora_alpha": [5]}, "its lora_alpha is not valid"),
        ({"lora_alpha": float("nan")}, "its lora_alpha is not valid"),
        ({"lora_alpha": 10**400}, "its lora_alpha is not valid"),
        ({"rank_pattern": ["q_proj"]}, "its rank_pattern is not valid"),
        ({"rank_pattern": {"q_proj": -1}}, "its rank_pattern is not valid"),
        ({"alpha_pattern": {"(": 1}}, "its alpha_pattern is not valid: .*regular expression"),
        ({"use_dora": "yes"}, "its use_dora is not valid"),
    ],
)
def test_adapter_that_merging_would_get_wrong_is_refused(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    save_adapter(language_model("llama"), tmp_path / "adapter")
    settings = Settings(model_roots=(tmp_path,), data_directory=tmp_path)
    assert adapter_directory("local:adapter", settings) == tmp_path / "adapter"
    configure(tmp_path / "adapter", **changes)
    with pytest.raises(ModelNotUsable, match=reason):
        adapter_directory("local:adapter", settings)


def test_configuration_nested_beyond_reading_is_refused(tmp_path: Path) -> None:
    save_adapter(language_model("llama"), tmp_path)
    (tmp_path / "adapter_config.json").write_text("[" * 200_000)
    settings = Settings(model_roots=(tmp_path,), data_directory=tmp_path)
    with pytest.raises(ModelNotUsable, match="is not JSON"):
        adapter_directory(f"local:{tmp_path}", settings)


def test_model_is_left_alone_when_peft_cannot_wrap_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = language_model("llama")
    save_adapter(base, tmp_path)

    def wrap(*given: Any) -> None:
        PeftModel(*given)
        base.model.set_submodule(path, base.model.get_submodule(path).get_base_layer())
        raise TypeError("half of it")

    path = base.anatomy.mlp_down_projections[1]
    monkeypatch.setattr(adapters, "PeftModel", wrap)
    with (
        left_as_it_was(base),
        pytest.raises(StressFailed, match="cannot be merged: half of it"),
        stressed(base, None, LoraMerge(adapter="local:x"), tmp_path),
    ):
        pass


def test_pickled_adapter_is_refused(tmp_path: Path) -> None:
    save_adapter(language_model("llama"), tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    settings = Settings(model_roots=(tmp_path,), data_directory=tmp_path)
    with pytest.raises(ModelNotUsable, match=r"it has no adapter_model\.safetensors"):
        adapter_directory(f"local:{tmp_path}", settings)
