"""The reference numbers of tests/fixtures/parity, read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from services.worker.editing.contexts import Contexts
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.language_models.loading import LanguageModel, load_language_model
from shared.edits import Edit

FIXTURES = Path(__file__).parents[2] / "fixtures" / "parity"


@dataclass(frozen=True)
class Parity:
    """One reference run of one editor on one model."""

    language_model: LanguageModel
    edits: list[Edit]
    contexts: Contexts
    statistics: KeyStatistics
    hyperparameters: dict[str, Any]
    expected: dict[str, Tensor]
    trace: dict[str, Any]


def load_parity(model: str, run: str) -> Parity:
    directory = FIXTURES / model
    language_model = load_language_model(
        directory / "model", reference=f"local:{model}", revision="fixture", dtype="float32"
    )
    settings = json.loads((directory / f"hparams_{run}.json").read_text())
    edits = json.loads((directory / "edits.json").read_text())
    moments = load_file(directory / "cov.safetensors")
    return Parity(
        language_model=language_model,
        edits=[Edit.model_validate(edits[index]) for index in settings["edits"]],
        contexts=Contexts(
            tuple(tuple(group) for group in json.loads((directory / "contexts.json").read_text())["groups"])
        ),
        statistics=KeyStatistics(
            {int(name.removeprefix("layer")): moment.double() for name, moment in moments.items()}, 1
        ),
        hyperparameters={name: value for name, value in settings.items() if name != "edits"},
        expected=load_file(directory / f"expected_{run}.safetensors"),
        trace=json.loads((directory / "trace.json").read_text())[run],
    )


def relative_errors(actual: Tensor, expected: Tensor) -> Tensor:
    """‖x − y‖ / ‖y‖ of each row."""
    difference = torch.linalg.vector_norm(actual.double() - expected.double(), dim=-1)
    return difference / torch.linalg.vector_norm(expected.double(), dim=-1)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖x − y‖ / ‖y‖ of a whole matrix."""
    return float(relative_errors(actual.flatten(), expected.flatten()))
