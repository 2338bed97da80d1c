"""The weights of an edited model that was supplied, read tensor by tensor beside the model it was made of."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.weight_delta import Dense, LowRank
from shared.model_files import ModelNotUsable, examine_directory

# Constants that older checkpoints store beside their weights.
BUFFERS = re.compile(r"\.(attn\.bias|masked_bias|attention\.bias|rotary_emb\.inv_freq)$")

# Settings that do not bear on what a model computes.
INCIDENTAL = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "task_specific_params"),
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "hidden_dropout"),
        *("initializer_range", "use_return_dict", "return_dict"),
    }
)


class SuppliedModelUnusable(Exception):
    """A supplied model that is not the audited one with other weights; `reason` names the parameter."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the supplied model: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class SuppliedParameter:
    """A parameter of the audited model, and what the supplied model has in its place.

    values: as the audited model would load them, in its dtype and on its device. stored_as: their dtype in
    the file.
    """

    name: str
    base: Tensor
    values: Tensor
    stored_as: torch.dtype

    @property
    def differs(self) -> bool:
        """Whether any bit is another."""
        return not torch.equal(self.values, self.base)

    @property
    def edited(self) -> bool:
        """Whether it differs by more than by having been stored in a coarser dtype."""
        coarser = max((self.stored_as, self.base.dtype), key=lambda dtype: torch.finfo(dtype).eps)
        if {self.stored_as, self.base.dtype} == {torch.float16, torch.bfloat16}:
            return beyond_rounding_twice(self.base.float(), self.values.float())
        return not torch.equal(self.values.to(coarser), self.base.to(coarser))

    def delta(self) -> LowRank | Dense:
        """What takes the base to the supplied values, bit for bit; see `changed_rows` for when as factors."""
        dense = Dense.between(self.base, self.values)
        return changed_rows(dense) or dense


def beyond_rounding_twice(first: Tensor, second: Tensor) -> bool:
    """Whether float32 weights differ by more than the same ones may that were once float16, once bfloat16."""
    relative = torch.finfo(torch.bfloat16).eps * torch.maximum(first.abs(), second.abs())
    return bool(((first - second).abs() > relative + torch.finfo(torch.float16).smallest_normal).any())


def changed_rows(delta: Dense) -> LowRank | None:
    """A matrix delta with few changed rows as (one-hot rows) × (changes), which is exact; else None.

    That is how a few tokens' embeddings differ. Where all rows differ, an edit of low rank is none any more
    once its sum with the weights has been rounded, so that factors could not give the weights bit for bit.
    """
    values = delta.values
    if values.dim() != 2:
        return None
    rows = values.count_nonzero(dim=1).nonzero()[:, 0]
    if 2 * len(rows) * sum(values.shape) > values.numel():
        return None
    left = nn.functional.one_hot(rows, len(values)).T.to(values.dtype)
    return LowRank(left.contiguous(), values[rows])


def different_settings(language_model: LanguageModel, directory: Path) -> tuple[str, ...]:
    """The settings that the supplied model's configuration has otherwise, besides those that say nothing of
    how it computes; raises SuppliedModelUnusable for another architecture."""
    ours = language_model.model.config
    try:
        theirs = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise SuppliedModelUnusable(f"its configuration cannot be read: {error}") from error
    if theirs.model_type != ours.model_type:
        raise SuppliedModelUnusable(f"it is a {theirs.model_type}, the base model is a {ours.model_type}")
    settings, others = ours.to_dict(), theirs.to_dict()
    names = sorted(settings.keys() | others.keys())
    return tuple(name for name in names if name not in INCIDENTAL and settings.get(name) != others.get(name))


def supplied_parameters(language_model: LanguageModel, directory: Path) -> Iterator[SuppliedParameter]:
    """Every parameter of the model beside the supplied one's, in the model's order, holding one at a time.

    Raises SuppliedModelUnusable for a parameter that is missing, too many, of another shape, quantised or
    not finite, and for a head that only one of the two has tied; OSError for files that cannot be read.
    """
    model = language_model.model
    with ExitStack() as files:
        stored = stored_by_parameter(model, directory, files)
        check_surplus(model, stored)
        for name, parameter in model.named_parameters():
            yield compared(name, parameter.detach(), stored)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in an open safetensors file."""

    file: Any
    key: str

    def read(self) -> Tensor:
        tensor: Tensor = self.file.get_tensor(self.key)
        return tensor


def stored_by_parameter(model: PreTrainedModel, directory: Path, files: ExitStack) -> dict[str, StoredTensor]:
    """What the supplied model's files hold, by the names that the audited model has for it."""
    try:
        names = [name for name in examine_directory(directory).names if name.endswith(".safetensors")]
        opened = [files.enter_context(safe_open(directory / name, framework="pt")) for name in names]
    except ModelNotUsable as error:
        raise SuppliedModelUnusable(error.reason) from error
    except SafetensorError as error:
        raise SuppliedModelUnusable(f"its weights cannot be read: {error}") from error
    known = {*all_parameters(model), *dict(model.named_buffers())}
    renamings = [
        transform
        for transform in get_model_conversion_mapping(model)
        if isinstance(transform, WeightRenaming)
    ]
    stored: dict[str, StoredTensor] = {}
    for file in opened:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            renamed, _ = rename_source_key(key, renamings, [])
            name = name_in_model(renamed, known, f"{model.base_model_prefix}.")
            if name in stored:
                raise SuppliedModelUnusable(f"it has {name} twice, also as {key}")
            stored[name] = StoredTensor(file, key)
    return stored


def name_in_model(key: str, known: Collection[str], prefix: str) -> str:
    """The model's name for a tensor; what was saved without the head lacks the prefix."""
    return next((name for name in (key, prefix + key, key.removeprefix(prefix)) if name in known), key)


def all_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by every name that they have: a tied head by its own, too."""
    return dict(model.named_parameters(remove_duplicate=False))


def check_surplus(model: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> None:
    """Raise SuppliedModelUnusable for tensors that the model has no use for, or has tied to others."""
    parameters = dict(model.named_parameters())
    names = {parameter: name for name, parameter in parameters.items()}
    tied = {name: names[parameter] for name, parameter in all_parameters(model).items() if name not in names}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    for name in sorted(stored.keys() - parameters.keys() - dict(model.named_buffers()).keys()):
        if name in tied:
            if not torch.equal(stored[name].read(), stored[tied[name]].read()):
                raise SuppliedModelUnusable(
                    f"its {name} is not {tied[name]}, to which the base model ties it"
                )
        elif not BUFFERS.search(name) and not any(pattern.search(name) for pattern in ignored):
            raise SuppliedModelUnusable(f"it has {name}, which the base model has not")


def compared(name: str, parameter: Tensor, stored: Mapping[str, StoredTensor]) -> SuppliedParameter:
    """One parameter beside what was supplied for it."""
    if name not in stored:
        raise SuppliedModelUnusable(f"it has no {name}, which the base model has")
    tensor = stored[name].read()
    if tensor.shape != parameter.shape:
        raise SuppliedModelUnusable(
            f"its {name} is {tuple(tensor.shape)}, the base model's {tuple(parameter.shape)}"
        )
    if not tensor.is_floating_point():
        raise SuppliedModelUnusable(f"its {name} is quantised ({tensor.dtype}); audits need float weights")
    values = tensor.to(parameter.device, parameter.dtype)
    if not bool(torch.isfinite(values).all()):
        raise SuppliedModelUnusable(f"its {name} has numbers that are not finite")
    return SuppliedParameter(name, parameter, values, tensor.dtype)
