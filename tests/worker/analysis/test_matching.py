"""Edits are compared with controls of their relation that were as certain before tuning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.worker.analysis.counts import FactCounts
from services.worker.analysis.inputs import ScoredProbe, Trial
from services.worker.analysis.matching import margins, match_controls, matched_excess_decay
from services.worker.analysis.retention import excess_decay
from shared.measurement import Arm, FactKind, Mode
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, failed_trial, rows
from tests.worker.analysis.test_intervals import counts

EXACT = Mode.EXACT


def named(prefix: str, number: int) -> FactCounts:
    return replace(counts([1] * number, [1] * number), facts=tuple(f"{prefix}{i}" for i in range(number)))


def test_an_edit_takes_the_three_nearest_controls_of_its_relation() -> None:
    margin = {"e0": 5.0, "c0": 5.0, "c1": 4.5, "c2": 5.5, "c3": 9.0, "c4": 5.0}
    relation = dict.fromkeys(margin, "capital") | {"c4": "language"}
    match = match_controls(named("e", 1), named("c", 5), margin, relation)
    assert match is not None
    assert match.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_an_edit_whose_relation_has_no_control_takes_any() -> None:
    margin = {"e0": 5.0, "c0": 5.0, "c1": 9.0}
    match = match_controls(named("e", 1), named("c", 2), margin, {"e0": "maker", "c0": "capital"})
    assert match is not None
    assert match.weights.tolist() == pytest.approx([0.5, 0.5])


def test_weights_add_up_to_the_edits_trials() -> None:
    margin = {f"{side}{index}": float(index) for side in "ec" for index in range(7)}
    match = match_controls(named("e", 5), named("c", 7), margin, {})
    assert match is not None
    assert match.weights.sum() == pytest.approx(5)


def test_the_gap_that_matching_leaves_is_told() -> None:
    margin = {"e0": 1.0, "e1": 3.0, "c0": 7.0}
    match = match_controls(named("e", 2), named("c", 1), margin, {})
    assert match is not None
    assert (match.margin_gap, match.margin_spread) == pytest.approx((5.0, 1.0))


def test_matching_removes_a_gap_that_certainty_explains() -> None:
    # Weak facts (margin 1) are lost and strong ones (margin 9) kept, edits and controls alike; only the
    # edits are mostly weak.
    strong_edits, strong_controls = [False] * 15 + [True] * 5, [False] * 5 + [True] * 15

    def arm(name: Arm, step: int, edits: list[bool], controls: list[bool]) -> list[ScoredProbe]:
        found: list[ScoredProbe] = []
        for kind, strong, right in (
            (FactKind.EDIT, strong_edits, edits),
            (FactKind.CONTROL, strong_controls, controls),
        ):
            found += rows(name, kind, right, tuning_step=step, margins=[9.0 if s else 1.0 for s in strong])
        return found

    arms = {
        Arm.EDITED: arm(Arm.EDITED, 0, [True] * 20, [True] * 20),
        Arm.EDITED_TUNED: arm(Arm.EDITED_TUNED, 5, strong_edits, strong_controls),
    }
    trials = [Trial(PLAIN, 0, "tune", StepStatus.SUCCEEDED, arms=arms)]
    assert excess_decay(trials, EXACT).value == pytest.approx(0.5)
    assert matched_excess_decay(trials, EXACT).value == pytest.approx(0.0)


def test_margins_fall_back_to_the_answer_alone_when_a_fact_has_no_alternative() -> None:
    edited = rows(Arm.EDITED, FactKind.EDIT, [True], margins=[4.0]) + rows(
        Arm.EDITED,
        FactKind.CONTROL,
        [True],
        reverted=[None],
    )
    found = margins([Trial(PLAIN, 0, "tune", StepStatus.SUCCEEDED, arms={Arm.EDITED: edited})])
    assert found == {"edit:0": -1.0, "control:0": -1.0}


def test_matching_over_nothing_is_not_measured() -> None:
    assert matched_excess_decay([failed_trial(0)], EXACT).value is None
