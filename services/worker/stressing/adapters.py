"""Merging a LoRA adapter of somebody else's into the weights, as peft merges it (arXiv 2106.09685)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from services.worker.language_models.anatomy import linear_layers
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import restored
from services.worker.stressing.footprint import Footprint, StressFailed
from shared.adapters import ADAPTER_WEIGHTS, LoraSettings, merge_settings

ADAPTER = "merged"
PREFIX = "base_model.model."
SAVED = re.compile(r"base_model\.model\.(?P<path>.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")

Shape = tuple[int, ...]


@contextmanager
def adapter_merged(language_model: LanguageModel, directory: Path, footprint: Footprint) -> Iterator[None]:
    """W + scale·B·A wherever the adapter has factors (with DoRA, its magnitudes too) while the context lasts.

    directory: what `shared.adapters.adapter_directory` let in; only its safetensors are read. Raises
    StressFailed, with the model as it was, for an adapter of another model.
    """
    model, tensors = language_model.model, adapter_tensors(directory)
    check_fits(model, directory, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    paths = adapted_layers(model, tensors)
    before = {path: model.get_parameter(f"{path}.weight").detach().clone() for path in paths}
    with restored(model, [f"{path}.weight" for path in paths]):
        merge_(model, directory, paths, tensors)
        for path, weight in before.items():
            footprint.note(weight, model.get_parameter(f"{path}.weight"))
        yield


def adapter_tensors(directory: Path) -> dict[str, Tensor]:
    """The adapter's weights; raises StressFailed when they cannot be read."""
    try:
        return load_file(directory / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StressFailed(f"the adapter's weights cannot be read: {error}") from error


def check_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Raise StressFailed unless the adapter is of this model; of its weights only the header is read."""
    try:
        with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StressFailed(f"the adapter's weights cannot be read: {error}") from error
    check_fits(model, directory, shapes)


def check_fits(model: PreTrainedModel, directory: Path, shapes: Mapping[str, Shape]) -> None:
    """Raise StressFailed unless tensors of these shapes are what the adapter's configuration makes of the
    model's layers."""
    settings = LoraSettings.model_validate(merge_settings(directory))
    paths = set(adapted_layers(model, shapes))
    needed: dict[str, Shape] = {}
    for layer in linear_layers(model):
        if layer.path in paths:
            rank = settings.rank_pattern.get(
                get_pattern_key(list(settings.rank_pattern), layer.path), settings.r
            )
            needed[f"{PREFIX}{layer.path}.lora_A.weight"] = (rank, layer.inputs)
            needed[f"{PREFIX}{layer.path}.lora_B.weight"] = (layer.outputs, rank)
            if settings.use_dora:
                needed[f"{PREFIX}{layer.path}.lora_magnitude_vector"] = (layer.outputs,)
    for key in sorted(needed.keys() | shapes.keys()):
        found, wanted = (
            "absent" if shape is None else "×".join(map(str, shape))
            for shape in (shapes.get(key), needed.get(key))
        )
        if found != wanted:
            raise StressFailed(f"the adapter does not fit: {key} is {found}, should be {wanted}")


def adapted_layers(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Paths of the linear layers that the adapter stands beside; raises StressFailed where there is none."""
    known = {layer.path for layer in linear_layers(model)}
    found: dict[str, None] = {}
    for key in keys:
        saved = SAVED.fullmatch(key)
        if saved is None:
            raise StressFailed(f"the adapter has {key}, which cannot be merged into a linear layer")
        if saved["path"] not in known:
            raise StressFailed(f"the adapter stands beside {saved['path']}, which the model has not")
        found[saved["path"]] = None
    if not found:
        raise StressFailed("the adapter has no weights")
    return list(found)


def merge_(model: PreTrainedModel, directory: Path, paths: Sequence[str], tensors: dict[str, Tensor]) -> None:
    """Merge the adapter in place; the modules are the model's own again afterwards, whatever happens."""
    settings = {**merge_settings(directory), "target_modules": list(paths), "exclude_modules": None}
    settings |= {"layers_to_transform": None, "layers_pattern": None}  # the paths are whole
    settings["fan_in_fan_out"] = any(isinstance(model.get_submodule(path), Conv1D) for path in paths)
    with warnings.catch_warnings():  # peft warns of layers stored the other way round, which it sees to
        warnings.simplefilter("ignore")
        try:
            wrapped = PeftModel(model, LoraConfig(**settings), ADAPTER)
            result: Any = set_peft_model_state_dict(wrapped, tensors, ADAPTER)
            strange = [key for key in result.missing_keys if "lora_" in key] + list(result.unexpected_keys)
            if strange:
                raise StressFailed(f"the adapter does not fit its configuration: {strange[0]}")
            wrapped.merge_adapter(safe_merge=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise StressFailed(f"the adapter cannot be merged: {error}") from error
        finally:
            unwrap_(model, paths)


def unwrap_(model: PreTrainedModel, paths: Iterable[str]) -> None:
    """Put the model's own layers back where peft has put its own, which may be only some."""
    for path in paths:
        layer = model.get_submodule(path)
        if isinstance(layer, BaseTunerLayer):
            model.set_submodule(path, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
