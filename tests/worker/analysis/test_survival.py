"""Lifetimes are read off the probes, and the report states them beside retention."""

from __future__ import annotations

import pytest

from services.worker.analysis.curves import retention_curve
from services.worker.analysis.inputs import Trial
from services.worker.analysis.lifetimes import Lifetime, trial_lifetimes
from services.worker.analysis.survival import ENDED_APART, survival
from shared.measurement import Arm, FactKind, Mode
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, failed_trial, rows

EXACT = Mode.EXACT
YES, NO = True, False


def followed(edits: dict[int, list[bool]], controls: dict[int, list[bool]], seed: int = 0) -> Trial:
    """A trial from the answers at each probed step; step 0 is the edited model."""
    kinds = ((FactKind.EDIT, edits), (FactKind.CONTROL, controls))
    after = [
        row
        for kind, answers in kinds
        for step, right in answers.items()
        if step > 0
        for row in rows(Arm.EDITED_TUNED, kind, right, tuning_step=step)
    ]
    before = [row for kind, answers in kinds for row in rows(Arm.EDITED, kind, answers[0])]
    arms = {Arm.EDITED: before, Arm.EDITED_TUNED: after}
    return Trial(configuration=PLAIN, seed=seed, step_id="tune", status=StepStatus.SUCCEEDED, arms=arms)


EDITS = {0: [YES, YES, YES, NO], 1: [YES, NO, YES, YES], 9: [NO, YES, YES, YES]}
CONTROLS = {0: [YES, YES], 1: [YES, YES], 9: [YES, YES]}


def test_a_loss_lies_between_the_last_right_probe_and_the_first_wrong_one() -> None:
    found = list(trial_lifetimes(followed(EDITS, CONTROLS), FactKind.EDIT, EXACT).values())
    assert found == [Lifetime("edit:0", 1, 9), Lifetime("edit:1", 0, 1), Lifetime("edit:2", 9, None)]


def test_an_answer_that_comes_back_stays_lost() -> None:
    found = survival([followed(EDITS, CONTROLS)], EXACT).edits
    assert [(point.tuning_step, point.at_risk, point.lost) for point in found.points] == [
        (1, 3, 1),
        (9, 2, 1),
    ]
    assert [point.value for point in found.points] == pytest.approx([2 / 3, 1 / 3])
    assert (found.facts, found.trials, found.lost, found.median_step) == (3, 3, 2, 9)


def test_a_tuning_that_ended_early_leaves_its_facts_as_they_are() -> None:
    short = followed({0: [YES], 1: [YES]}, {0: [], 1: []}, seed=1)
    found = survival([followed({0: [YES], 1: [YES], 9: [NO]}, {0: [], 1: [], 9: []}), short], EXACT).edits
    assert [(point.tuning_step, point.at_risk, point.value) for point in found.points] == [
        (1, 2, 1.0),
        (9, 2, 0.5),
    ]
    assert (found.facts, found.trials) == (1, 2)


def test_losses_of_one_interval_are_not_multiplied_where_seeds_end_at_different_steps() -> None:
    kept, lost_some = [YES] * 100, [NO] * 40 + [YES] * 60
    trials = [
        followed({0: kept, 24: kept, end: lost_some}, {0: kept, 24: kept, end: kept}, seed=seed)
        for seed, end in enumerate((50, 60, 70))
    ]
    found = survival(trials, EXACT).edits
    assert ENDED_APART in survival(trials, EXACT).how
    assert ENDED_APART not in survival(trials[:1], EXACT).how
    assert [(point.tuning_step, point.at_risk, point.lost) for point in found.points] == [
        (24, 300, 0),
        (70, 300, 120),
    ]
    assert found.points[-1].value == pytest.approx(0.6)
    curve = retention_curve(trials, EXACT)
    assert [(point.tuning_step, point.edits.value) for point in curve] == [(24, 1.0), (70, 0.6)]


def test_a_loss_between_common_steps_is_dated_to_the_next_of_them() -> None:
    first = followed({0: [YES], 1: [YES], 4: [NO], 9: [YES]}, {0: [], 1: [], 4: [], 9: []})
    second = followed({0: [YES], 1: [YES], 9: [YES]}, {0: [], 1: [], 9: []}, seed=1)
    points = survival([first, second], EXACT).edits.points
    assert [(point.tuning_step, point.lost) for point in points] == [(1, 0), (9, 1)]


def test_without_losses_there_is_no_median_and_no_test() -> None:
    found = survival([followed(CONTROLS, CONTROLS)], EXACT)
    assert (found.edits.median_step, found.log_rank) == (None, None)
    assert found.edits.points[-1].value == 1.0
    assert found.edits.points[-1].interval.low < 0.5  # two facts prove little


def test_where_nothing_ran_there_are_no_points() -> None:
    found = survival([failed_trial(0)], EXACT)
    assert (found.edits.points, found.controls.points, found.log_rank) == ([], [], None)
