"""A training run between two optimiser steps, as one safetensors file that holds all the rest depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.worker.tuning.errors import CheckpointUnusable
from services.worker.tuning.randomness import RandomStates

FORMAT = "holdfast-tuning-checkpoint"
FORMAT_VERSION = 1
DIGEST = "sha256"

WEIGHT = "weight"  # kinds of tensors; a tensor's key is `kind:name`
OPTIMIZER = "optimizer."  # followed by the name that the optimiser gives to this part of its state
STEP_LOSSES = "run:losses"
NOTES = "run:notes"
CPU_GENERATOR = "random:cpu"
GPU_GENERATOR = "random:gpu"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the steps still to come depend on.

    run: what run it belongs to (`description_of`); notes: the caller's own words; losses: of every
    optimiser step so far, in nats per scored token; trainer: transformers' TrainerState, with the step
    and the tokens seen; learning_rates: by parameter group; weights: what learns, by parameter name, in
    its learning dtype; optimizer: part of its state (`exp_avg`, …) → parameter name → tensor.
    """

    run: dict[str, Any]
    notes: str
    held_out_loss_before: float
    losses: tuple[float, ...]
    trainer: dict[str, Any]
    scheduler: dict[str, Any]
    learning_rates: tuple[float, ...]
    randomness: RandomStates
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Mapping[str, Tensor]]

    @property
    def micro_batch(self) -> int:
        """Sequences per forward pass of the run."""
        return int(self.run["micro_batch"])

    def write(self, path: Path) -> None:
        """Write the file. Raises OSError or SafetensorError when it cannot be written to its end."""
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self._tensors().items()}
        header = json.dumps(self._header())
        save_file(tensors, path, metadata={FORMAT: header, DIGEST: digest_of(header, tensors)})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a file that `write` made; raises CheckpointUnusable when it is not one, bit for bit."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise CheckpointUnusable(f"{path.name} cannot be read: {error}") from error
        if FORMAT not in metadata:
            raise CheckpointUnusable(f"{path.name} is not a checkpoint of a tuning")
        if metadata.get(DIGEST) != digest_of(metadata[FORMAT], tensors):
            raise CheckpointUnusable(f"{path.name} is damaged")
        header = json.loads(metadata[FORMAT])
        if header["version"] != FORMAT_VERSION:
            raise CheckpointUnusable(f"{path.name} has version {header['version']}, not {FORMAT_VERSION}")
        return cls._put_together(header, tensors)

    def check_belongs_to(self, run: Mapping[str, Any]) -> None:
        """Raise CheckpointUnusable, naming what differs, unless this was written by the same run."""
        different = sorted(part for part in {*self.run, *run} if self.run.get(part) != run.get(part))
        if different:
            raise CheckpointUnusable(f"the checkpoint is of another run: {', '.join(different)} differ")

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            STEP_LOSSES: torch.tensor(self.losses, dtype=torch.float64),
            NOTES: torch.from_numpy(np.frombuffer(bytearray(self.notes.encode()), np.uint8)),
            CPU_GENERATOR: self.randomness.cpu,
        }
        if self.randomness.gpu is not None:
            tensors[GPU_GENERATOR] = self.randomness.gpu
        for part, by_name in {
            WEIGHT: self.weights,
            **{f"{OPTIMIZER}{part}": state for part, state in self.optimizer.items()},
        }.items():
            tensors.update({f"{part}:{name}": tensor for name, tensor in by_name.items()})
        return tensors

    def _header(self) -> dict[str, Any]:
        algorithm, keys, *rest = self.randomness.numpy
        return {
            "version": FORMAT_VERSION,
            "run": self.run,
            "held_out_loss_before": self.held_out_loss_before,
            "trainer": self.trainer,
            "scheduler": self.scheduler,
            "learning_rates": self.learning_rates,
            "python_generator": self.randomness.python,
            "numpy_generator": [algorithm, keys.tolist(), *rest],
        }

    @classmethod
    def _put_together(cls, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
        by_kind: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(":")
            by_kind.setdefault(kind, {})[name] = tensor
        version, internal, gauss = header["python_generator"]
        algorithm, keys, *rest = header["numpy_generator"]
        return cls(
            run=header["run"],
            notes=tensors[NOTES].numpy().tobytes().decode(),
            held_out_loss_before=header["held_out_loss_before"],
            losses=tuple(tensors[STEP_LOSSES].tolist()),
            trainer=header["trainer"],
            scheduler=header["scheduler"],
            learning_rates=tuple(header["learning_rates"]),
            randomness=RandomStates(
                python=(version, tuple(internal), gauss),
                numpy=(algorithm, np.array(keys, dtype=np.uint32), *rest),
                cpu=tensors[CPU_GENERATOR],
                gpu=tensors.get(GPU_GENERATOR),
            ),
            weights=by_kind.get(WEIGHT, {}),
            optimizer={
                kind.removeprefix(OPTIMIZER): state
                for kind, state in by_kind.items()
                if kind.startswith(OPTIMIZER)
            },
        )


def digest_of(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the header and of every tensor's name, dtype, shape and bytes; tensors on the CPU."""
    digest = hashlib.sha256(header.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
