"""The base and edit steps say how far they are, and do with less memory than they were meant to have."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.worker.steps.context import AuditContext, StepOutcome
from services.worker.steps.order import RUN, next_step
from shared.states import Cause, StepKind, StepStatus
from shared.tables import Step
from tests.support.parity_audit import parity_request
from tests.worker.scarce_memory import room_for
from tests.worker.steps.audits import claimed, run_steps, steps_of

# float32 sums over other batches, through the updates of an editor that has four edits
LOG_PROB_TOLERANCE = 1e-3
ROWS_OF_AN_EDIT = 7  # of MEMIT: five contexts, the bare prompt and the essence


@pytest.fixture(params=[StepKind.BASE, StepKind.EDIT])
def at_step(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[AuditContext, Step]:
    """An audit whose next step is the base's, or MEMIT's."""
    context = claimed(tmp_path, parity_request())
    run_steps(context, 1 if request.param is StepKind.BASE else 2)
    step = next_step(context)
    assert step is not None
    assert step.kind is request.param
    return context, step


def log_probs(outcome: StepOutcome) -> list[float]:
    return [score.log_prob_answer for arm in outcome.arms for score in arm.scores]


def test_step_reports_its_progress_from_its_start_to_its_end(
    at_step: tuple[AuditContext, Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, step = at_step
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(context, "report_progress", lambda _step, share, note: told.append((share, note)))
    # Texts of key statistics are sampled 256 at a time, and would take long in small parts.
    with room_for(ROWS_OF_AN_EDIT if step.kind is StepKind.BASE else 256, context.language_model):
        RUN[step.kind](context, step)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 3
    parts = list(dict.fromkeys(note.split()[0] for _, note in told))
    assert parts == (["probe"] if step.kind is StepKind.BASE else ["key", "contexts", "editing", "probe"])
    assert told[-1][1].split()[1] == told[-1][1].split()[3]  # the last probe, of as many


def test_step_that_runs_out_of_memory_gives_the_same_scores_and_says_so(
    at_step: tuple[AuditContext, Step],
) -> None:
    context, step = at_step
    expected = RUN[step.kind](context, step)
    with room_for(ROWS_OF_AN_EDIT, context.language_model):
        outcome = RUN[step.kind](context, step)
    assert log_probs(outcome) == pytest.approx(log_probs(expected), abs=LOG_PROB_TOLERANCE)
    assert not any("memory" in warning for warning in expected.record["warnings"])
    short = [warning for warning in outcome.record["warnings"] if "memory" in warning]
    assert any("prompts were scored" in warning for warning in short)
    assert all(warning.startswith(f"{step.title}: ran out of GPU memory; ") for warning in short)


def test_step_of_which_nothing_fits_into_memory_fails_by_that_name(tmp_path: Path) -> None:
    context = claimed(tmp_path, parity_request())
    run_steps(context, 1)
    with room_for(0, context.language_model):
        run_steps(context, 1)
    (base,) = steps_of(context, StepKind.BASE)
    assert (base.status, base.cause) == (StepStatus.FAILED, Cause.INFRASTRUCTURE)
    assert (base.error or "").startswith(
        "the GPU ran out of memory although prompts were scored one at a time"
    )
