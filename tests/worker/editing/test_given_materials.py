"""Key statistics that are brought along, and what is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from services.worker.editing.given_materials import MaterialsUnusable, read_statistics
from tests.worker.editing.cases import tiny_language_model


def moment() -> Tensor:
    """A second moment as wide as the tiny models' keys, in float32."""
    model = tiny_language_model("gpt2")
    width = model.model.get_submodule(model.anatomy.mlp_down_projections[1]).weight.shape[0]
    keys = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(0))
    return keys.T @ keys / len(keys)


def sunk(values: Tensor) -> Tensor:
    values[0, 0] = -1.0
    return values


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda values: values > 0, "floating-point numbers but bool"),
        (lambda values: values.to(torch.int64), "floating-point numbers but int64"),
        (lambda values: values * float("nan"), "not finite"),
        (torch.Tensor.neg, "its diagonal has negative numbers"),
        (sunk, "its diagonal has negative numbers"),
        (torch.zeros_like, "its diagonal is zero"),
        (torch.Tensor.triu, "not symmetric"),
    ],
)
def test_what_is_no_second_moment_is_named(
    spoil: Callable[[Tensor], Tensor], reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "statistics.safetensors"
    save_file({"layer0": moment(), "layer1": spoil(moment()).contiguous()}, file)
    with pytest.raises(MaterialsUnusable, match=f"layer1 .*{reason}"):
        read_statistics(file, tiny_language_model("gpt2"), [0, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_does_not_spoil_a_second_moment(dtype: torch.dtype, tmp_path: Path) -> None:
    values = moment()
    values[0, 1] *= 1 + 1e-6
    save_file({"layer1": values.to(dtype)}, tmp_path / "statistics.safetensors")
    read = read_statistics(tmp_path / "statistics.safetensors", tiny_language_model("gpt2"), [1])
    assert torch.equal(read.second_moments[1], values.to(dtype).double())
