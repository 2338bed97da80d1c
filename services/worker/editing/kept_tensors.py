"""Tensors kept in files that others may read or write at the same moment."""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """What `write_whole` wrote; None where nothing is or where a crash of the machine left it damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        return None
    except SafetensorError:
        log.warning("%s is damaged and is computed again", path)
        return None


def write_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write beside the file, then rename: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(descriptor)
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
