"""A tuning that is handed over or runs out of memory publishes what it would have published in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update
from sqlmodel import col

from services.worker.language_models.loading import LanguageModel
from services.worker.orders import Order
from services.worker.steps.context import AuditContext
from services.worker.steps.order import next_step, run_step, work_on_audit
from services.worker.steps.tune import warnings
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.run import TuningOutcome
from shared.artifacts import Artifact
from shared.database import transaction
from shared.recipes import LoraUpdate, Objective, log_spaced_steps
from shared.states import Cause, StepKind, StepStatus
from shared.tables import Event, Step
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import another_worker, claimed, events_of, rows_of, run_steps, steps_of
from tests.worker.tuning.models import recipe

STEPS, PROBES, BATCH = 4, 3, 4
BEFORE_TUNING = 3  # plan, base, edit
COMPARED = {"held_out_loss_before", "held_out_loss_after", "tokens_seen", "drift", "warnings"}


def request() -> dict[str, Any]:
    """One edit, one recipe of several epochs: a tuning of the base, then one of the edited model."""
    body = parity_request(editors=parity_request()["editors"][1:])
    changes = {"freeze": ["none"], "steps": STEPS, "probe_count": PROBES, "batch_size": BATCH}
    body["recipes"][0].update(changes)
    return body


def about_to_tune(folder: Path) -> AuditContext:
    """An attempt whose next step is the tuning of the base."""
    folder.mkdir(exist_ok=True)
    context = claimed(folder, request())
    run_steps(context, BEFORE_TUNING)
    return context


def tune_next(context: AuditContext) -> Step:
    """Run the next step, which is a tuning; how it ended."""
    step = next_step(context)
    assert step is not None
    assert step.kind is StepKind.TUNE
    run_step(context, step)
    return context.step(step.id)


def published(context: AuditContext, step: Step) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The probe rows of a step, in order, and its record."""
    rows = [row.model_dump(exclude={"id", "step_id"}) for row in rows_of(context, step)]
    return rows, {name: (step.outcome or {})[name] for name in COMPARED}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """Both tunings, done in one go."""
    context = about_to_tune(tmp_path_factory.mktemp("uninterrupted"))
    run_steps(context, 2)
    return context


def hand_over(context: AuditContext) -> AuditContext:
    """Begin the next step, be stopped at once, and let another worker claim what was left."""
    assert next_step(context) is not None
    context.orders.take(Order.HAND_OVER)
    work_on_audit(context)
    return another_worker(context)


def stored_checkpoint(context: AuditContext, folder: Path) -> tuple[Step, Path]:
    """The step that has a checkpoint, and the checkpoint's file."""
    step = next(step for step in steps_of(context, StepKind.TUNE) if step.checkpoint)
    assert step.checkpoint is not None
    assert step.checkpoint_sha256 is not None
    path = folder / "stored.safetensors"
    context.store.get_file(Artifact(step.checkpoint, step.checkpoint_sha256), path)
    return step, path


def put_checkpoint(context: AuditContext, step: Step, path: Path) -> None:
    """Have the step go on from another file."""
    artifact = context.store.put_file(path, ".safetensors")
    with transaction(context.engine) as session:
        session.execute(
            update(Step)
            .where(col(Step.id) == step.id)
            .values(checkpoint=artifact.name, checkpoint_sha256=artifact.sha256)
        )


def data_of(context: AuditContext, kind: str) -> list[dict[str, Any]]:
    """What the audit's events of one kind say."""
    query = select(Event).where(col(Event.audit_id) == context.lease.audit_id, col(Event.kind) == kind)
    with transaction(context.engine) as session:
        return [event.data for event in session.execute(query.order_by(col(Event.sequence))).scalars()]


def test_tuning_handed_over_after_every_step_publishes_what_one_worker_would(
    tmp_path: Path, uninterrupted: AuditContext
) -> None:
    context = about_to_tune(tmp_path)
    for _ in range(STEPS - 1):
        context = hand_over(context)
    tune_next(context)
    tune_next(context)
    assert events_of(context).count("step.resumed") == STEPS - 1
    for ours, theirs in zip(
        steps_of(context, StepKind.TUNE), steps_of(uninterrupted, StepKind.TUNE), strict=True
    ):
        assert published(context, ours) == published(uninterrupted, theirs)


def test_stopped_worker_leaves_the_weights_as_it_found_them(tmp_path: Path) -> None:
    context = about_to_tune(tmp_path)
    before = {name: weight.clone() for name, weight in context.language_model.model.state_dict().items()}
    hand_over(context)
    after = context.language_model.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def of_another_run(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, run={**checkpoint.run, "seed": 99})


def with_other_probes(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, notes='{"asked": "others", "arms": []}')


@pytest.mark.parametrize("spoil", [of_another_run, with_other_probes])
def test_checkpoint_of_no_use_is_ignored_and_the_step_begins_anew(
    tmp_path: Path, uninterrupted: AuditContext, spoil: Callable[[Checkpoint], Checkpoint]
) -> None:
    context = hand_over(about_to_tune(tmp_path))
    step, path = stored_checkpoint(context, tmp_path)
    spoil(Checkpoint.read(path)).write(tmp_path / "spoilt")
    put_checkpoint(context, step, tmp_path / "spoilt")
    tuned = tune_next(context)
    assert events_of(context).count("step.checkpoint_ignored") == 1
    assert published(context, tuned) == published(uninterrupted, steps_of(uninterrupted, StepKind.TUNE)[0])


@contextmanager
def memory_for(language_model: LanguageModel, sequences: int, after: int = 0) -> Iterator[None]:
    """A model that, `after` so many training passes, runs out of memory on more sequences than that."""
    passes: list[int] = []

    def check(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        if module.training:
            passes.append(output.shape[0])
            if output.shape[0] > sequences and len(passes) > after:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    embedding = language_model.model.get_submodule(language_model.anatomy.embedding)
    handle = embedding.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("after", [0, STEPS - 1])
def test_tuning_that_runs_out_of_memory_uses_smaller_micro_batches_and_says_so(
    tmp_path: Path, uninterrupted: AuditContext, after: int
) -> None:
    context = about_to_tune(tmp_path)
    with memory_for(context.language_model, BATCH // 4, after):
        step = tune_next(context)
    assert step.status is StepStatus.SUCCEEDED
    rows, record = published(context, step)
    expected, of_whole = published(uninterrupted, steps_of(uninterrupted, StepKind.TUNE)[0])
    assert [told["micro_batch"] for told in data_of(context, "step.out_of_memory")] == [
        BATCH // 2,
        BATCH // 4,
    ]
    assert [warning for warning in record["warnings"] if f"{BATCH // 4} at a time" in warning]
    assert record["tokens_seen"] == of_whole["tokens_seen"]
    places = ("tuning_step", "arm", "fact_id", "probe_kind", "probe_index")
    assert [[row[name] for name in places] for row in rows] == [
        [row[name] for name in places] for row in expected
    ]
    assert {row["tuning_step"] for row in rows} == set(log_spaced_steps(STEPS, PROBES))


def test_resumed_tuning_keeps_the_micro_batches_that_it_was_begun_with(tmp_path: Path) -> None:
    whole = about_to_tune(tmp_path / "whole")
    with memory_for(whole.language_model, 2):
        expected = tune_next(whole)
    context = about_to_tune(tmp_path / "parts")
    with memory_for(context.language_model, 2):
        context = hand_over(context)
    found = tune_next(context)  # on a GPU that is large enough
    assert published(context, found) == published(whole, expected)


def test_tuning_whose_single_sequence_does_not_fit_fails_as_infrastructure(tmp_path: Path) -> None:
    context = about_to_tune(tmp_path)
    with memory_for(context.language_model, 0):
        step = tune_next(context)
    assert (step.status, step.cause) == (StepStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "one sequence" in (step.error or "")
    assert tune_next(context).status is StepStatus.SUCCEEDED


def test_step_that_several_processes_share_says_how_many_they_were(
    tmp_path: Path, uninterrupted: AuditContext
) -> None:
    context = about_to_tune(tmp_path)
    settings = context.settings.model_copy(update={"tuning_processes": 2})
    step, alone = tune_next(replace(context, settings=settings)), steps_of(uninterrupted, StepKind.TUNE)[0]
    assert (step.status, step.error) == (StepStatus.SUCCEEDED, None)
    assert step.outcome is not None
    assert alone.outcome is not None
    assert alone.outcome["environment"]["tuning_processes"] == 1
    assert step.outcome["environment"] == {**alone.outcome["environment"], "tuning_processes": 2}
    assert step.outcome["tokens_seen"] == alone.outcome["tokens_seen"]
    assert len(rows_of(context, step)) == len(rows_of(uninterrupted, alone))


@pytest.mark.parametrize(("objective", "told"), [(Objective.PREFERENCE, 1), (Objective.CAUSAL_LM, 0)])
def test_dropout_that_preferences_do_not_use_is_told(objective: Objective, told: int) -> None:
    for dropout, expected in ((0.1, told), (0.0, 0)):
        chosen = recipe(objective, update=LoraUpdate(dropout=dropout))
        outcome = TuningOutcome(1.0, 1.0, (), 0, 0, left_out=0, shortened=0, micro_batch=chosen.micro_batch)
        assert len(warnings(chosen, outcome)) == expected
