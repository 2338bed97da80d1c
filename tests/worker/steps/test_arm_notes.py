"""Scores survive their way through a checkpoint to the last bit."""

from __future__ import annotations

import math

import pytest

from services.worker.steps.arm_notes import from_notes, to_notes
from services.worker.steps.context import ArmScores
from services.worker.tuning.errors import CheckpointUnusable
from shared.measurement import Arm, FactKind, Probe, ProbeKind, ProbeScore

ASKED = [
    Probe("edit:0", FactKind.EDIT, ProbeKind.REWRITE, 0, "Ada lives in", "Rome", "Paris", "home"),
    Probe("control:0", FactKind.CONTROL, ProbeKind.REWRITE, 0, "Zoë wohnt in", "Köln"),
]


def arms(*numbers: float) -> list[ArmScores]:
    return [
        ArmScores(
            Arm.EDITED_TUNED,
            tuning_step,
            ASKED,
            [
                ProbeScore(True, False, True, number, -number, False, " Rom\n→"),
                ProbeScore(False, False, None, number / 3, None, None, ""),
            ],
        )
        for tuning_step, number in enumerate(numbers, start=1)
    ]


def test_scores_come_back_to_the_last_bit_and_in_order() -> None:
    scored = arms(0.1 + 0.2, 5e-324, -1e308, math.inf, -0.0)
    found = from_notes(to_notes(scored, ASKED), Arm.EDITED_TUNED, ASKED)
    assert found == scored
    assert repr(found) == repr(scored)  # tells 0.0 from -0.0


def test_number_that_is_none_comes_back() -> None:
    found = from_notes(to_notes(arms(math.nan), ASKED), Arm.EDITED_TUNED, ASKED)
    assert math.isnan(found[0].scores[0].log_prob_answer)


def test_scores_of_other_probes_are_refused() -> None:
    with pytest.raises(CheckpointUnusable):
        from_notes(to_notes(arms(1.0), ASKED), Arm.EDITED_TUNED, ASKED[::-1])
