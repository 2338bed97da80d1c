"""What an editor does to a model, as something that can be stored, applied and taken away again."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.worker.language_models.loading import LanguageModel

HEADER = "holdfast"  # the one entry of the file's metadata: safetensors sorts nothing that has several
VERSION = 2


class ModificationMismatch(Exception):
    """A stored modification that is damaged or belongs to another model; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Modification(Protocol):
    """Makes the edited model of the base: other weights, something beside them, or words before a prompt."""

    @property
    def base_revision(self) -> str:
        """Revision of the model that it belongs to."""
        ...

    def applied(self, language_model: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """Given the base, yield the edited model while the context lasts.

        Its weights may be trained further inside; afterwards the base is as it was, bit for bit. Raises
        ModificationMismatch, before anything is changed, when it does not fit the model.
        """
        ...

    def save(self, path: Path) -> None:
        """Write one safetensors file whose header says which kind of modification it is."""
        ...


@dataclass(frozen=True)
class StoredModification:
    """What a modification's file holds; `header` has its `kind`, `base_revision` and what else it needs."""

    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        return str(self.header["kind"])

    @property
    def base_revision(self) -> str:
        return str(self.header["base_revision"])


def write_modification(
    path: Path, kind: str, base_revision: str, tensors: Mapping[str, Tensor], **header: Any
) -> None:
    """Write tensors and a header (JSON) as a safetensors file."""
    content = {"kind": kind, "version": VERSION, "base_revision": base_revision, **header}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        metadata={HEADER: json.dumps(content, sort_keys=True)},
    )


def read_modification(path: Path) -> StoredModification:
    """Read what `write_modification` wrote; raises ModificationMismatch when the file is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise ModificationMismatch(f"{path.name} is not a stored modification: {error}") from error
    if header.get("version") != VERSION or not {"kind", "base_revision"} <= header.keys():
        raise ModificationMismatch(f"{path.name} is not a stored modification of version {VERSION}")
    return StoredModification(header, tensors)
