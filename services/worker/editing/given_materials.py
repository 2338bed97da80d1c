"""Contexts and key statistics that somebody brings along, read from files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.worker.editing.contexts import Contexts
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.target_requests import ESSENCE_TEMPLATE
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.loading import LanguageModel
from shared.edits import without_control_characters

SYMMETRY = 1e-4  # float32 sums over millions of tokens, in either order, differ by less


class MaterialsUnusable(Exception):
    """A file of contexts or of key statistics that does not hold what an editor needs."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_contexts(path: Path) -> Contexts:
    """The context templates of a JSON file, as its `groups`, lists of texts with one `{}` each.

    Raises MaterialsUnusable.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MaterialsUnusable(path, error.strerror or str(error)) from error
    except RecursionError:
        raise MaterialsUnusable(path, "is nested too deeply") from None
    except ValueError as error:
        raise MaterialsUnusable(path, f"is not JSON: {error}") from error
    groups = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(groups, list) or not all(is_texts(group) for group in groups):
        raise MaterialsUnusable(path, "groups: must be a list of lists of texts")
    if content.get("kl_prompt", ESSENCE_TEMPLATE) != ESSENCE_TEMPLATE:
        raise MaterialsUnusable(path, f"kl_prompt: the divergence is always taken over '{ESSENCE_TEMPLATE}'")
    try:
        for context in (context for group in groups for context in group):
            without_control_characters(context)
        return Contexts(tuple(tuple(group) for group in groups))
    except ValueError as error:
        raise MaterialsUnusable(path, f"groups: {error}") from error


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def read_statistics(path: Path, language_model: LanguageModel, layers: Sequence[int]) -> KeyStatistics:
    """The second moments of the keys of these layers, kept as `layer{l}` in a safetensors file.

    Only what is needed is read. Raises MaterialsUnusable, naming the tensor, when one is missing, has
    another shape than (d_ff, d_ff), or is no second moment, see `no_second_moment`.
    """
    if path.is_dir():  # of which safetensors says that there is no such device
        raise MaterialsUnusable(path, "is a directory, not a file")
    try:
        with safe_open(path, framework="pt") as file:
            missing = [f"layer{layer}" for layer in layers if f"layer{layer}" not in file.keys()]  # noqa: SIM118
            if missing:
                held = ", ".join(sorted(file.keys())) or "nothing"
                raise MaterialsUnusable(path, f"there is no {', '.join(missing)}; it holds {held}")
            moments = {layer: file.get_tensor(f"layer{layer}") for layer in layers}
    except OSError as error:
        raise MaterialsUnusable(path, error.strerror or str(error)) from error
    except SafetensorError as error:
        raise MaterialsUnusable(path, f"is not a safetensors file: {error}") from error
    for layer, moment in moments.items():
        check_moment(path, language_model, layer, moment)
    return KeyStatistics({layer: moment.double() for layer, moment in moments.items()}, token_count=0)


def check_moment(path: Path, language_model: LanguageModel, layer: int, moment: Tensor) -> None:
    weight, transposed = down_projection_weight(language_model.model, language_model.anatomy, layer)
    width = weight.shape[0 if transposed else 1]
    if moment.shape != (width, width):
        raise MaterialsUnusable(
            path, f"layer{layer} is {tuple(moment.shape)}, the keys of the model are {width} wide"
        )
    if reason := no_second_moment(moment):
        raise MaterialsUnusable(path, f"layer{layer} {reason}")


def no_second_moment(moment: Tensor) -> str | None:
    """Why a square matrix cannot be a mean of k kᵀ; None where it can.

    Rounding of sums in float32 is let pass: moments are symmetric up to SYMMETRY of their largest number.
    """
    if not moment.is_floating_point():
        return f"holds no floating-point numbers but {str(moment.dtype).removeprefix('torch.')}"
    moment = moment.double()
    if not bool(torch.isfinite(moment).all()):
        return "has numbers that are not finite"
    if bool((moment.diagonal() < 0).any()):
        return "is no second moment: its diagonal has negative numbers"
    if not bool(moment.diagonal().any()):
        return "is no second moment: its diagonal is zero"
    if float((moment - moment.T).abs().max()) > SYMMETRY * float(moment.abs().max()):
        return "is no second moment: it is not symmetric"
    return None
