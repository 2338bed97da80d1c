"""A checkpoint's file gives back every bit, and whatever is not such a file is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.worker.tuning.checkpoints import FORMAT, Checkpoint
from services.worker.tuning.errors import CheckpointUnusable
from services.worker.tuning.randomness import RandomStates

CPU = torch.device("cpu")


def made_up() -> Checkpoint:
    weights = {"a.weight": torch.randn(3, 4), "b:odd.weight": torch.randn(2, dtype=torch.float64)}
    return Checkpoint(
        run={"micro_batch": 3, "seed": 1, "recipe": {"learning_rate": 1e-4 / 3}},
        notes="ä → \n",
        held_out_loss_before=0.1 + 0.2,
        losses=(1 / 3, 5e-324),
        trainer={"global_step": 2, "epoch": 0.1},
        scheduler={"last_epoch": 2, "_last_lr": [1e-4 / 7]},
        learning_rates=(1e-4 / 7, 0.0),
        randomness=RandomStates.now(CPU),
        weights=weights,
        optimizer={
            "step": {name: torch.tensor(2.0) for name in weights},
            "exp_avg": {name: torch.rand_like(weight) for name, weight in weights.items()},
        },
    )


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def test_file_gives_back_every_bit(tmp_path: Path) -> None:
    written = made_up()
    written.write(tmp_path / "file")
    read = Checkpoint.read(tmp_path / "file")
    exact = "run notes held_out_loss_before losses trainer scheduler learning_rates"
    for field in exact.split():
        assert getattr(read, field) == getattr(written, field)
    assert same_tensors(dict(read.weights), dict(written.weights))
    assert read.optimizer.keys() == written.optimizer.keys()
    for part, state in written.optimizer.items():
        assert same_tensors(dict(read.optimizer[part]), dict(state))


@pytest.mark.parametrize("notes", ["", "x" * 200_000])
def test_notes_may_be_empty_or_long(tmp_path: Path, notes: str) -> None:
    replace(made_up(), notes=notes).write(tmp_path / "file")
    assert Checkpoint.read(tmp_path / "file").notes == notes


def draws() -> list[float]:
    """From every generator; two normal ones each, as the second may come from the state's spare."""
    return [
        random.gauss(0, 1),
        random.random(),  # noqa: S311 (not a secret)
        float(np.random.standard_normal()),
        float(np.random.rand()),
        float(torch.rand(1)),
    ]


def test_every_random_generator_goes_on_where_it_stood(tmp_path: Path) -> None:
    draws()  # leaves a spare normal number in Python's generator and in NumPy's
    replace(made_up(), randomness=RandomStates.now(CPU)).write(tmp_path / "file")
    expected = [draws(), draws()]
    Checkpoint.read(tmp_path / "file").randomness.restore(CPU)
    assert [draws(), draws()] == expected


def test_generator_of_a_gpu_is_kept_beside_the_others(tmp_path: Path) -> None:
    gpu = torch.arange(16, dtype=torch.uint8)
    randomness = replace(RandomStates.now(CPU), gpu=gpu)
    replace(made_up(), randomness=randomness).write(tmp_path / "file")
    read = Checkpoint.read(tmp_path / "file").randomness
    assert read.gpu is not None
    assert torch.equal(read.gpu, gpu)


def test_flip_of_any_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    made_up().write(path)
    content = path.read_bytes()
    chosen = random.Random(0)  # noqa: S311 (not a secret)
    for position in [*range(0, 400, 7), *chosen.sample(range(400, len(content)), 200)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointUnusable):
            Checkpoint.read(path)


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file"
    made_up().write(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointUnusable):
        Checkpoint.read(path)


def test_foreign_or_missing_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    save_file({"weight": torch.zeros(2)}, tmp_path / "dressed up", metadata={FORMAT: "{}"})
    for name in ("foreign", "dressed up", "missing"):
        with pytest.raises(CheckpointUnusable):
            Checkpoint.read(tmp_path / name)


def test_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("services.worker.tuning.checkpoints.FORMAT_VERSION", 2)
        made_up().write(tmp_path / "file")
    with pytest.raises(CheckpointUnusable, match="version 2"):
        Checkpoint.read(tmp_path / "file")
