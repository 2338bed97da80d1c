"""Round trips through few bits, by rounding to nearest.

Weights are (outputs, inputs), results in their dtype. All of it is computed in
float32, scales included; a weight of a channel or group of zeros stays zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

INT8_MOST = 127
INT4_MOST, INT4_LEVELS = 7, 15


def int8_round_trip(weight: Tensor) -> Tensor:
    """s = max|w| / 127 per output channel, q = round(w / s), ŵ = s·q (LLM.int8(), arXiv 2208.07339)."""
    return absmax_round_trip(weight.float(), INT8_MOST).to(weight.dtype)


def int4_round_trip(weight: Tensor, group_size: int, *, asymmetric: bool) -> Tensor:
    """Each output channel in groups of consecutive inputs, a scale for each group; see `shared.stressors`.

    The last group of a channel is shorter where the size does not divide its inputs.
    """

    def round_trip(groups: Tensor) -> Tensor:
        return min_max_round_trip(groups) if asymmetric else absmax_round_trip(groups, INT4_MOST)

    return by_groups(weight.float(), group_size, round_trip).to(weight.dtype)


def absmax_round_trip(rows: Tensor, most: int) -> Tensor:
    """Symmetric around zero: (…, numbers) with one scale per row, integers from −most to most."""
    scale = scale_or_one(rows.abs().amax(dim=-1, keepdim=True) / most)
    return scale * torch.round(rows / scale).clamp(-most, most)


def min_max_round_trip(rows: Tensor) -> Tensor:
    """Asymmetric: (…, numbers) with one scale and one zero point per row, integers from 0 to 15.

    The range takes in zero, so that a zero stays one (as in GPTQ's reference, `Quantizer.find_params`).
    """
    low = rows.amin(dim=-1, keepdim=True).clamp(max=0)
    high = rows.amax(dim=-1, keepdim=True).clamp(min=0)
    scale = scale_or_one((high - low) / INT4_LEVELS)
    zero = torch.round(-low / scale)
    return scale * ((torch.round(rows / scale) + zero).clamp(0, INT4_LEVELS) - zero)


def scale_or_one(scale: Tensor) -> Tensor:
    """One where a scale is zero, which all-zero rows have."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def by_groups(weight: Tensor, size: int, round_trip: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `round_trip` to (outputs, groups, size), and to what is left over of each channel."""
    outputs, inputs = weight.shape
    whole = inputs - inputs % size
    parts = []
    if whole:
        grouped = weight[:, :whole].reshape(outputs, whole // size, size)
        parts.append(round_trip(grouped).reshape(outputs, whole))
    if whole < inputs:
        parts.append(round_trip(weight[:, whole:]))
    return torch.cat(parts, dim=1)
