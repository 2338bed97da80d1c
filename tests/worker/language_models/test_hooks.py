"""What stands in for a module's output does so whatever is put around the module, and leaves no trace."""

import pytest
import torch
from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from services.worker.language_models.hooks import intercepted_output
from tests.worker.tiny_models import tiny_model

PATHS = {"gpt2": "transformer.h.2.mlp.c_proj", "opt": "model.decoder.layers.2.fc2"}
IDS = torch.tensor([[4, 5, 6, 7]])


def zeros(_inputs: Tensor, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def interrupted(_inputs: Tensor, _output: Tensor) -> Tensor:
    raise InterruptedError


@pytest.mark.parametrize("family", PATHS)
def test_what_replaces_the_output_gets_the_input_and_the_output(family: str) -> None:
    model = tiny_model(family)
    module = model.get_submodule(PATHS[family])
    seen: list[bool] = []

    def compare(inputs: Tensor, output: Tensor) -> Tensor:
        seen.append(torch.equal(module.forward(inputs), output))
        return output

    with torch.no_grad(), intercepted_output(model, PATHS[family], compare):
        model(IDS)
    assert seen == [True]


@pytest.mark.parametrize("family", PATHS)
def test_an_adapter_put_around_the_module_in_the_meantime_is_replaced_with_it(family: str) -> None:
    model = tiny_model(family).requires_grad_(False)
    with torch.no_grad(), intercepted_output(model, PATHS[family], zeros):
        expected = model(IDS).logits
        configuration = LoraConfig(
            r=2, target_modules=[PATHS[family]], fan_in_fan_out=family == "gpt2", init_lora_weights=False
        )
        adapters = LoraModel(model, configuration, "default")
        assert isinstance(model.get_submodule(PATHS[family]), BaseTunerLayer)
        assert torch.equal(model(IDS).logits, expected)
        adapters.unload()
        assert torch.equal(model(IDS).logits, expected)


def test_the_module_puts_out_its_own_again_afterwards() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        before = model(IDS).logits
        with intercepted_output(model, PATHS["gpt2"], zeros):
            assert not torch.equal(model(IDS).logits, before)
        with pytest.raises(InterruptedError), intercepted_output(model, PATHS["gpt2"], interrupted):
            model(IDS)
        assert torch.equal(model(IDS).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_flow_through_what_replaces_the_output() -> None:
    model = tiny_model("gpt2")
    with intercepted_output(model, PATHS["gpt2"], lambda inputs, output: output + inputs.mean()):
        model(IDS).logits.sum().backward()
    assert model.get_parameter("transformer.h.0.mlp.c_fc.weight").grad is not None
