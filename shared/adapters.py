"""LoRA adapters that a request names, judged by their files' names and JSON alone: nothing is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.model_files import ModelNotUsable
from shared.model_references import local_directory
from shared.settings import Settings

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_RANK = 4096
# What merging an adapter depends on, as peft's LoraConfig names it.
MERGED = frozenset(
    {
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    }
)
# What it does not depend on; of `bias` and `init_lora_weights` some values are refused.
INCIDENTAL = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("lora_dropout", "bias", "init_lora_weights", "megatron_core", "runtime_config", "eva_config"),
        *("loftq_config", "qalora_group_size", "ensure_weight_tying", "auto_mapping"),
    }
)
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # the others change the base's weights


def pattern(text: str) -> str:
    """A regular expression on the paths of layers, as peft matches it; raises ValueError where it is none."""
    try:
        re.compile(rf"(.*\.)?({text})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError("is no regular expression") from error
    return text


Pattern = Annotated[str, AfterValidator(pattern)]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]


class LoraSettings(BaseModel):
    """What the merging of an adapter is computed from; what is left out is peft's default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    r: Rank = 8
    lora_alpha: Alpha = 8
    rank_pattern: dict[Pattern, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[Pattern, Alpha] = Field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False


def adapter_directory(text: str, settings: Settings) -> Path:
    """Where the adapter is that `local:DIRECTORY` names.

    Raises:
        ModelNotUsable: it is not there or not allowed, is no LoRA adapter, or is pickled.
    """
    directory = local_directory(text, settings)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (directory / name).is_file():
            raise ModelNotUsable(f"it has no {name}")
    merge_settings(directory)
    return directory


def merge_settings(directory: Path) -> dict[str, Any]:
    """What of an adapter's configuration its merging depends on, by peft's names; raises ModelNotUsable."""
    config = read_config(directory / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelNotUsable(f"it is a {config.get('peft_type')} adapter; only LORA ones can be merged")
    if config.get("bias") not in (None, "none"):
        raise ModelNotUsable("it changes biases too, which merging would leave out")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        raise ModelNotUsable(
            f"it was begun by {config['init_lora_weights']}, which changes the base model's own weights; "
            "save it converted to plain LoRA"
        )
    for name, value in sorted(config.items()):
        if value and name not in MERGED | INCIDENTAL:
            raise ModelNotUsable(f"its {name} cannot be merged")
    merged = {name: value for name, value in config.items() if name in MERGED and value is not None}
    try:
        LoraSettings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelNotUsable(f"its {first['loc'][0]} is not valid: {first['msg']}") from error
    return merged


def adapter_revision(directory: Path) -> str:
    """SHA-256 (hex) over the adapter's two files."""
    whole = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        with (directory / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """The adapter's configuration; raises ModelNotUsable unless it is a JSON object of at most a mebibyte."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelNotUsable(f"its {path.name} is too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotUsable(f"its {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelNotUsable(f"its {path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise ModelNotUsable(f"its {path.name} is not a JSON object")
    return value
