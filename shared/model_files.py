"""Which files make up a usable model, judged by their names and JSON alone: nothing is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Any one of these groups is a whole tokenizer.
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
OPTIONAL = (
    "generation_config.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",  # what instructions are laid out by, so it belongs to the revision too
)
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
REWRITING_SUFFIX = "ForConditionalGeneration"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
BLOCK_COUNT_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
MAX_JSON_BYTES = 32 * 2**20
CHUNK_BYTES = 2**20

Read = Callable[[str], bytes]


class ModelNotUsable(Exception):
    """A model that cannot be audited; `reason` says why in plain words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HubUnavailable(ModelNotUsable):
    """The hub gives no answer now; nothing is known of the model, and trying again may help."""


@dataclass(frozen=True)
class ModelFiles:
    """What a language model's configuration says, and the names of all the files it is loaded from.

    has_encoder: whether it is a sequence-to-sequence model, which can write but not be audited.
    """

    model_type: str | None
    architecture: str
    block_count: int | None
    names: tuple[str, ...]
    has_encoder: bool

    def check_decoder(self) -> None:
        """Raise ModelNotUsable unless it can be audited."""
        if self.has_encoder:
            raise ModelNotUsable(f"it is not a causal language model but {self.architecture}")


def examine_files(names: Collection[str], read: Read) -> ModelFiles:
    """Judge a model by the names of its files and the JSON among them.

    names: the files at the model's top level; read: the bytes of one of them.

    Raises:
        ModelNotUsable: it writes no texts, or could not be loaded without code or pickles of its own.
    """
    if CONFIG not in names:
        adapter = "adapter_config.json" in names
        raise ModelNotUsable(
            "it is an adapter; merge it into its base model first" if adapter else f"it has no {CONFIG}"
        )
    config = _read_json(CONFIG, read)
    architecture, has_encoder = _architecture(config)
    if "quantization_config" in config:
        raise ModelNotUsable("its weights are quantised; audits need float weights")
    weights = _weight_files(names, read)
    tokenizer = _tokenizer_files(names, read)
    model_type = config.get("model_type")
    return ModelFiles(
        model_type=model_type if isinstance(model_type, str) else None,
        architecture=architecture,
        block_count=_block_count(config),
        names=tuple(sorted({CONFIG, *weights, *tokenizer, *(name for name in OPTIONAL if name in names)})),
        has_encoder=has_encoder,
    )


def examine_directory(directory: Path) -> ModelFiles:
    """`examine_files` for a directory."""
    try:
        names = {path.name for path in directory.iterdir() if path.is_file()}
        return examine_files(names, lambda name: _read_bounded(directory / name))
    except OSError as error:
        raise ModelNotUsable(f"its files cannot be read: {error.strerror}") from error


def content_revision(directory: Path) -> str:
    """SHA-256 (hex) over the names and bytes of the files the model is loaded from.

    It is the hash of what `sha256sum` prints for these files in order of their names.

    Raises:
        ModelNotUsable: see `examine_files`.
    """
    whole = hashlib.sha256()
    for name in examine_directory(directory).names:
        part = hashlib.sha256()
        with (directory / name).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                part.update(chunk)
        whole.update(f"{part.hexdigest()}  {name}\n".encode())
    return whole.hexdigest()


def _architecture(config: dict[str, Any]) -> tuple[str, bool]:
    """Name of the architecture, and whether it has an encoder."""
    if "auto_map" in config:
        raise ModelNotUsable("it needs Python code of its own (auto_map), which is never run")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise ModelNotUsable(f"its {CONFIG} does not say its architecture")
    has_encoder = config.get("is_encoder_decoder") is True
    suffixes = REWRITING_SUFFIX if has_encoder else CAUSAL_SUFFIXES
    writing = [name for name in architectures if isinstance(name, str) and name.endswith(suffixes)]
    if not writing:
        listed = ", ".join(str(name)[:100] for name in architectures[:3])
        raise ModelNotUsable(f"it is not a causal language model but {listed}")
    return writing[0], has_encoder


def _weight_files(names: Collection[str], read: Read) -> list[str]:
    if WEIGHTS in names:
        return [WEIGHTS]
    if WEIGHTS_INDEX in names:
        return [WEIGHTS_INDEX, *_shards(names, read)]
    pickled = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    found = f"only as pickle ({', '.join(pickled[:3])})" if pickled else "nowhere"
    raise ModelNotUsable(f"its weights are {found}; {WEIGHTS} or its shards are needed")


def _shards(names: Collection[str], read: Read) -> list[str]:
    weight_map = _read_json(WEIGHTS_INDEX, read).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelNotUsable(f"its {WEIGHTS_INDEX} has no weight_map")
    shards = set()
    for shard in weight_map.values():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or set(shard) & set("/\\\0"):
            raise ModelNotUsable(f"its {WEIGHTS_INDEX} names a shard that is no plain .safetensors file")
        shards.add(shard)
    if missing := sorted(shards.difference(names)):
        raise ModelNotUsable(f"{len(missing)} of its {len(shards)} shards are missing, first {missing[0]}")
    return sorted(shards)


def _tokenizer_files(names: Collection[str], read: Read) -> set[str]:
    files = {name for group in TOKENIZERS if set(group).issubset(names) for name in group}
    if not files:
        raise ModelNotUsable("it has no tokenizer (tokenizer.json, tokenizer.model, vocabulary and merges)")
    if TOKENIZER_CONFIG in names and "auto_map" in _read_json(TOKENIZER_CONFIG, read):
        raise ModelNotUsable("its tokenizer needs Python code of its own (auto_map), which is never run")
    return files


def _block_count(config: dict[str, Any]) -> int | None:
    counts = (config.get(name) for name in BLOCK_COUNT_NAMES)
    return next((count for count in counts if type(count) is int and count > 0), None)


def _read_json(name: str, read: Read) -> dict[str, Any]:
    try:
        value = json.loads(read(name))
    except (ValueError, RecursionError) as error:
        raise ModelNotUsable(f"its {name} is not JSON") from error
    if not isinstance(value, dict):
        raise ModelNotUsable(f"its {name} is not a JSON object")
    return value


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelNotUsable(f"its {path.name} is larger than {MAX_JSON_BYTES // 2**20} MiB")
    return path.read_bytes()
