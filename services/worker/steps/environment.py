"""What the numbers of a step depend on besides its inputs: the device, the versions, the machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import torch

from services.worker.language_models.loading import LanguageModel
from services.worker.steps.content_keys import optional_packages

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy")

# Where no step says what it ran under, for the base model could not be measured.
UNRECORDED: dict[str, Any] = {
    "holdfast_version": "unknown",
    "python_version": "unknown",
    "packages": {},
    "dtype": "unknown",
    "device": "unknown",
    "platform": "unknown",
    "threads": 0,
}


def environment(language_model: LanguageModel) -> dict[str, Any]:
    """What a step that uses this model in this process runs under, for the step's record.

    JSON throughout; the names are those of `Provenance`.
    """
    device = language_model.device
    return {
        "holdfast_version": version("holdfast"),
        "python_version": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES} | optional_packages(),
        "dtype": str(language_model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def differences(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """One warning that names everything in which environments differ, or none where they are alike."""
    values: dict[str, set[str]] = {}
    for recorded in environments:
        for name, value in flat(recorded):
            values.setdefault(name, set()).add(value)
    different = [f"{name} ({', '.join(sorted(found))})" for name, found in values.items() if len(found) > 1]
    if not different:
        return []
    return [
        f"steps ran under different environments, so their last digits may differ: {'; '.join(different)}"
    ]


def flat(recorded: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Every entry as text, the packages' versions among the others."""
    for name, value in recorded.items():
        if isinstance(value, Mapping):
            yield from flat(value)
        else:
            yield name.removesuffix("_version"), str(value)
