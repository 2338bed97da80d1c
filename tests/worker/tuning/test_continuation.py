"""A run that is left and resumed gives, bit for bit, what it gives in one go."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.worker.tuning import continuation as continuation_module
from services.worker.tuning import tasks
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.errors import CheckpointUnusable, HandedOver
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.objectives import training_and_held_out
from shared.recipes import FullUpdate, LoraUpdate, Objective, Recipe, Update
from tests.worker.tuning.interruptions import Seen, interrupted, leave, uninterrupted
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of

STEPS_PER_EPOCH = 3
STEPS = 8
PATTERNS = {
    "first step": (1,),
    "mid-epoch": (5,),
    "border of epochs": (3,),
    "before the last step": (7,),
    "twice": (4, 6),
}
LORA = LoraUpdate(rank=4, dropout=0.3)


def several_epochs(update: Update = FullUpdate(), **changes: Any) -> Recipe:  # noqa: B008 (immutable)
    """Eight steps of two sequences, six of which are an epoch; every other one is probed."""
    settings: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 2,
        "sequence_length": 8,
        "probe_count": 4,
        **changes,
    }
    return recipe(update=update, schedule="cosine", warmup_steps=2, **settings)


def test_epochs_of_these_runs_have_the_length_that_the_patterns_are_made_for() -> None:
    chosen = several_epochs()
    assert chosen.data.records is not None
    tokenizer = tiny_language_model().tokenizer
    examples, _ = training_and_held_out(chosen, tokenizer, chosen.data.records, (), seed=0)
    assert len(examples) == STEPS_PER_EPOCH * chosen.batch_size


@pytest.mark.parametrize("at", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize(
    ("family", "dtype", "update"),
    [
        ("gpt2", torch.float32, FullUpdate()),  # GPT-2 has a dropout of 0.1
        ("gpt2", torch.bfloat16, FullUpdate()),
        ("llama", torch.float16, FullUpdate()),
        ("gpt2", torch.bfloat16, LORA),
        ("llama", torch.float32, LORA),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, family: str, dtype: torch.dtype, update: Update, at: Sequence[int]
) -> None:
    model, chosen = tiny_language_model(family, dtype), several_epochs(update)
    expected = uninterrupted(model, chosen, tmp_path)
    interrupted(model, chosen, tmp_path, at).check_equal(expected)


@pytest.mark.parametrize("at", PATTERNS.values(), ids=PATTERNS.keys())
def test_resumed_run_equals_the_uninterrupted_one_in_micro_batches_and_uneven_epochs(
    tmp_path: Path, at: Sequence[int]
) -> None:
    model, chosen = tiny_language_model(), several_epochs(batch_size=4)  # of six sequences: 4 and 2
    expected = uninterrupted(model, chosen, tmp_path, micro_batch=1)
    interrupted(model, chosen, tmp_path, at, micro_batch=1).check_equal(expected)


def test_instructions_resume_like_texts(tmp_path: Path) -> None:
    model = tiny_language_model()
    chosen = recipe(Objective.INSTRUCTIONS, batch_size=1, steps=9, probe_count=3)
    expected = uninterrupted(model, chosen, tmp_path)
    interrupted(model, chosen, tmp_path, (2, 4)).check_equal(expected)


@pytest.mark.parametrize("update", [FullUpdate(), LORA])
def test_frozen_blocks_stay_frozen_when_a_run_is_resumed(tmp_path: Path, update: Update) -> None:
    model, chosen = tiny_language_model(), several_epochs(update)
    expected = uninterrupted(model, chosen, tmp_path, frozen=Frozen((1, 2)))
    interrupted(model, chosen, tmp_path, (4,), frozen=Frozen((1, 2))).check_equal(expected)


@pytest.mark.parametrize("update", [FullUpdate(), LORA])
def test_fresh_process_gives_the_same_weights(tmp_path: Path, update: Update) -> None:
    model, chosen = tiny_language_model(), several_epochs(update)
    expected = uninterrupted(model, chosen, tmp_path)
    checkpoint = leave(model, chosen, tmp_path, 4)
    found = tmp_path / "found.safetensors"
    subprocess.run(
        [sys.executable, "-m", "tests.worker.tuning.resume_elsewhere", checkpoint, found],
        input=chosen.model_dump_json(),
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert changed(expected.probed[-1][1], load_file(found)) == set()


def test_storing_checkpoints_does_not_touch_the_run(tmp_path: Path) -> None:
    model, chosen = tiny_language_model(), several_epochs()
    expected = uninterrupted(model, chosen, tmp_path)
    stored: list[int] = []

    def store(path: Path, step: int) -> None:
        stored.append(step)
        torch.manual_seed(step)

    seen = Seen()
    seen.tune(model, chosen, tmp_path, continuation=Continuation(due=lambda: True, store=store))
    seen.check_equal(expected)
    assert stored == list(range(1, STEPS))  # the last step needs none


def test_checkpoint_is_made_after_the_probe_and_the_progress_of_its_step(tmp_path: Path) -> None:
    order: list[str] = []

    def due() -> bool:
        order.append("due")
        return False

    run(
        tiny_language_model(),
        several_epochs(steps=2, probe_count=2),
        tmp_path,
        probe=lambda step: order.append("probe"),
        progress=lambda step, steps, loss: order.append("progress"),
        continuation=Continuation(due=due),
    )
    assert order == ["progress", "probe", "due", "progress", "probe"]


def test_last_step_is_finished_rather_than_handed_over(tmp_path: Path) -> None:
    seen = Seen()
    seen.tune(
        tiny_language_model(),
        several_epochs(),
        tmp_path,
        continuation=Continuation(asked_to_hand_over=lambda: seen.step == STEPS),
    )
    assert seen.outcome is not None


def test_handing_over_restores_the_model_and_leaves_no_file(tmp_path: Path) -> None:
    model = tiny_language_model(dtype=torch.bfloat16)
    before = weights_of(model)
    with pytest.raises(HandedOver):
        run(model, several_epochs(), tmp_path, continuation=Continuation(asked_to_hand_over=lambda: True))
    assert changed(before, weights_of(model)) == set()
    assert list(tmp_path.iterdir()) == []


def test_held_out_loss_of_the_start_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chosen = tiny_language_model(), several_epochs()
    checkpoint = Checkpoint.read(leave(model, chosen, tmp_path, 2))
    measured = iter([1.5])
    monkeypatch.setattr(tasks, "held_out_loss", lambda *_, **__: next(measured))
    outcome = run(model, chosen, tmp_path, continuation=Continuation(resume=checkpoint))
    assert outcome.held_out_loss_before == checkpoint.held_out_loss_before
    assert outcome.held_out_loss_after == 1.5


def test_notes_come_back_as_they_were_when_the_checkpoint_was_made(tmp_path: Path) -> None:
    seen = Seen()
    path = leave(
        tiny_language_model(), several_epochs(), tmp_path, 3, seen, notes=lambda: f"→ {seen.progress}"
    )
    assert Checkpoint.read(path).notes == f"→ {seen.progress}"


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    monkeypatch.setattr(torch, "save", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    interrupted(tiny_language_model(), several_epochs(), tmp_path, (4,))


def test_crash_while_writing_leaves_the_previous_checkpoint_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chosen = tiny_language_model(), several_epochs()
    expected = uninterrupted(model, chosen, tmp_path)
    stored = leave(model, chosen, tmp_path, 2)
    kept: list[Path] = []

    def crash_half_way(checkpoint: Checkpoint, path: Path) -> None:
        path.write_bytes(stored.read_bytes()[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", crash_half_way)
        crashing = Continuation(
            resume=Checkpoint.read(stored), due=lambda: True, store=lambda path, _: kept.append(path)
        )
        with pytest.raises(KeyboardInterrupt):
            run(model, chosen, tmp_path, continuation=crashing)
    assert kept == []
    outcome = run(model, chosen, tmp_path, continuation=Continuation(resume=Checkpoint.read(stored)))
    assert outcome == expected.outcome


def test_full_disk_costs_the_checkpoint_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(checkpoint: Checkpoint, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "write", full)
    monkeypatch.setattr(continuation_module, "STEPS_AFTER_FAILED_WRITING", 4)
    stored: list[int] = []
    with caplog.at_level(logging.WARNING):
        outcome = run(
            tiny_language_model(),
            several_epochs(),
            tmp_path,
            continuation=Continuation(due=lambda: True, store=lambda path, step: stored.append(step)),
        )
    assert (len(outcome.losses), stored) == (STEPS, [])
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [1, 5]


DIFFERENT: dict[str, dict[str, Any]] = {
    "recipe": {"chosen": several_epochs(learning_rate=2e-2)},
    "seed": {"seed": 1},
    "frozen": {"frozen": Frozen((1,))},
    "micro_batch": {"micro_batch": 1},
    "data": {"chosen": several_epochs(sequence_length=9)},
    "parameters": {"chosen": several_epochs(LORA)},
    "model": {"revision": "1"},
    "dtype": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_checkpoint_of_another_run_is_refused_before_anything_happens(
    tmp_path: Path, difference: str
) -> None:
    checkpoint = Checkpoint.read(leave(tiny_language_model(), several_epochs(), tmp_path, 2))
    changes = dict(DIFFERENT[difference])
    chosen = changes.pop("chosen", several_epochs())
    model = tiny_language_model(dtype=changes.pop("dtype", torch.float32))
    model = replace(model, revision=changes.pop("revision", model.revision))
    before, seen = weights_of(model), Seen()
    with pytest.raises(CheckpointUnusable, match=difference):
        seen.tune(model, chosen, tmp_path, continuation=Continuation(resume=checkpoint), **changes)
    assert (seen.probed, seen.progress) == ([], [])
    assert changed(before, weights_of(model)) == set()


def test_recipe_by_another_name_is_the_same_run(tmp_path: Path) -> None:
    model, chosen = tiny_language_model(), several_epochs()
    checkpoint = Checkpoint.read(leave(model, chosen, tmp_path, 2))
    renamed = chosen.model_copy(update={"name": "other"})
    outcome = run(model, renamed, tmp_path, continuation=Continuation(resume=checkpoint))
    assert len(outcome.losses) == STEPS
