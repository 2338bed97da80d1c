from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.worker.language_models.modification import ModificationMismatch, read_modification
from services.worker.language_models.weight_delta import (
    Dense,
    LowRank,
    WeightDelta,
    applied,
    restored,
)
from tests.worker.tiny_models import tiny_model

WEIGHT = "transformer.h.1.mlp.c_proj.weight"
BIAS = "transformer.h.1.mlp.c_proj.bias"


def some_delta() -> WeightDelta:
    generator = torch.Generator().manual_seed(1)
    return WeightDelta(
        {
            WEIGHT: LowRank(
                torch.randn(128, 3, generator=generator), torch.randn(3, 32, generator=generator)
            ),
            BIAS: Dense(torch.randn(32, generator=generator)),
        },
        base_revision="r1",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_base_is_restored_bit_for_bit(dtype: torch.dtype) -> None:
    model = tiny_model("gpt2").to(dtype)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with applied(model, some_delta()):
        assert not torch.equal(model.get_parameter(WEIGHT), before[WEIGHT])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_base_is_restored_when_the_work_inside_fails() -> None:
    model = tiny_model("gpt2")
    before = model.get_parameter(WEIGHT).clone()
    with pytest.raises(ZeroDivisionError), applied(model, some_delta()):
        raise ZeroDivisionError
    assert torch.equal(model.get_parameter(WEIGHT), before)


def test_stored_delta_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    model, delta = tiny_model("gpt2"), some_delta()
    delta.save(tmp_path / "delta.safetensors")
    with applied(model, delta):
        edited = model.get_parameter(WEIGHT).clone()
    with applied(model, WeightDelta.stored(read_modification(tmp_path / "delta.safetensors"))):
        assert torch.equal(model.get_parameter(WEIGHT), edited)


def test_stored_delta_knows_its_base(tmp_path: Path) -> None:
    some_delta().save(tmp_path / "delta.safetensors")
    assert WeightDelta.stored(read_modification(tmp_path / "delta.safetensors")).base_revision == "r1"


def test_empty_delta_survives_storing(tmp_path: Path) -> None:
    WeightDelta({}, "r1").save(tmp_path / "delta.safetensors")
    assert WeightDelta.stored(read_modification(tmp_path / "delta.safetensors")).parameters == {}


def test_low_rank_delta_is_the_product_of_its_factors() -> None:
    model = tiny_model("gpt2")
    before = model.get_parameter(WEIGHT).clone()
    delta = some_delta()
    factors = delta.parameters[WEIGHT]
    assert isinstance(factors, LowRank)
    with applied(model, delta):
        assert torch.allclose(model.get_parameter(WEIGHT), before + factors.left @ factors.right, atol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [{"transformer.h.9.bias": Dense(torch.zeros(32))}, {WEIGHT: Dense(torch.zeros(32, 128))}],
    ids=["unknown name", "wrong shape"],
)
def test_delta_of_another_model_is_refused(parameters: dict[str, Dense]) -> None:
    with pytest.raises(ModificationMismatch):
        WeightDelta(parameters, "r1").apply_(tiny_model("gpt2"))


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModificationMismatch, match="not a stored modification"):
        WeightDelta.stored(read_modification(tmp_path / "other.safetensors"))


def test_files_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"nonsense that is long enough")
    with pytest.raises(ModificationMismatch, match="not a stored modification"):
        WeightDelta.stored(read_modification(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_difference_of_two_weights_restores_the_second_bit_for_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(1000, generator=generator).to(dtype)
    changed = (base * torch.randn(1000, generator=generator) * 1e-3).to(dtype)  # where float32 falls short
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(base.clone(), requires_grad=False)
    WeightDelta({"weight": Dense.between(base, changed)}, "r1").apply_(module)
    assert torch.equal(module.weight, changed)


def test_whatever_training_does_is_undone() -> None:
    model = tiny_model("llama").requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with restored(model):
        model.train().requires_grad_(True)
        model(input_ids=torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad
