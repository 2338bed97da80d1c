"""Reading back what editors stored."""

from collections.abc import Callable
from pathlib import Path

from services.worker.editing import codebook, demonstrations, side_memory
from services.worker.language_models import weight_delta
from services.worker.language_models.modification import (
    Modification,
    ModificationMismatch,
    StoredModification,
    read_modification,
)

KINDS: dict[str, Callable[[StoredModification], Modification]] = {
    weight_delta.KIND: weight_delta.WeightDelta.stored,
    codebook.KIND: codebook.Codebook.stored,
    demonstrations.KIND: demonstrations.Demonstrations.stored,
    side_memory.KIND: side_memory.SideMemory.stored,
}


def load_modification(path: Path) -> Modification:
    """The modification in a file; raises ModificationMismatch when there is none that is whole."""
    stored = read_modification(path)
    if stored.kind not in KINDS:
        raise ModificationMismatch(f"{path.name} holds an unknown kind of modification, '{stored.kind}'")
    return KINDS[stored.kind](stored)
