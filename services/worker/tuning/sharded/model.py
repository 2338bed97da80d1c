"""A model in shares: each rank keeps about one n-th of every weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.sharded.start import BUFFER, PARAMETER, WEIGHTS, Start
from services.worker.tuning.updates.adapters import put_in
from shared.recipes import DoraUpdate, Ia3Update, LoraUpdate, RsLoraUpdate


def sharded_model(start: Start, directory: Path, mesh: DeviceMesh, device: torch.device) -> LanguageModel:
    """This rank's share of the model that the step's process has made ready to learn.

    Every block is filled with its values and sharded before the next, so that no rank ever has the whole
    model on its device.
    """
    language_model = without_values(start, directory)
    model, update = language_model.model, start.recipe.update
    if isinstance(update, LoraUpdate | RsLoraUpdate | DoraUpdate | Ia3Update):
        with torch.device("meta"):
            put_in(language_model, update, Frozen(start.frozen_blocks, start.frozen_parameters))
    model.requires_grad_(False)
    for name in start.learning:
        model.get_parameter(name).requires_grad_(True)

    values = Values(directory / WEIGHTS, device)
    for path in language_model.anatomy.blocks:
        values.fill(model, path)
        shard_(model.get_submodule(path), mesh)
    values.fill(model, "")
    shard_(model, mesh)
    values.fill_buffers(model)
    return language_model


def without_values(start: Start, directory: Path) -> LanguageModel:
    """The model by its configuration alone: its tensors have names and shapes, and take no memory."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=start.attention, trust_remote_code=False
        )
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return prepare_language_model(model, tokenizer, str(directory), "")


def shard_(module: nn.Module, mesh: DeviceMesh) -> None:
    """Share the module's parameters out, but for those of its parts that are shared out already."""
    sharded: FSDPModule = fully_shard(module, mesh=mesh)
    # The loss is divided by the tokens of all ranks, so that gradients are to be added and not averaged;
    # gloo could do it no other way.
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)


class Values:
    """The tensors of a model in a file, read one by one; a parameter is in it by the first of its names."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.device = device
        self.filled: dict[
            nn.Parameter, nn.Parameter
        ] = {}  # by the one without values, that of a tied head too

    def fill(self, model: nn.Module, below: str) -> None:
        """Give values to the parameters below a path that have none yet."""
        with safe_open(self.path, framework="pt") as file:
            for owner, name, path in places(model, below):
                empty = owner._parameters[name]
                if empty is None or not empty.is_meta:
                    continue
                if empty not in self.filled:
                    values = file.get_tensor(f"{PARAMETER}{path}").to(self.device)
                    self.filled[empty] = nn.Parameter(values, requires_grad=empty.requires_grad)
                owner._parameters[name] = self.filled[empty]

    def fill_buffers(self, model: nn.Module) -> None:
        """Give all buffers their values; those that are saved with no model are in the file too."""
        buffers: dict[str, Tensor] = dict(model.named_buffers())
        with safe_open(self.path, framework="pt") as file:
            for path in buffers:
                owner, _, name = path.rpartition(".")
                values = file.get_tensor(f"{BUFFER}{path}").to(self.device)
                model.get_submodule(owner)._buffers[name] = values


def places(model: nn.Module, below: str) -> Iterator[tuple[nn.Module, str, str]]:
    """Every place of a parameter below a path: the module it is in, its name there, and its path."""
    for path, module in model.get_submodule(below).named_modules(prefix=below):
        for name in module._parameters:
            yield module, name, f"{path}.{name}" if path else name
