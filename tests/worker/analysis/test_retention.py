"""The formulas, on audits small enough to count by hand."""

from __future__ import annotations

import pytest

from services.worker.analysis.curves import retention_curve
from services.worker.analysis.inputs import ScoredProbe, Trial
from services.worker.analysis.retention import (
    efficacy,
    excess_decay,
    interaction,
    locality,
    metric,
    retention,
    reversion,
    share_right,
)
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, failed_trial, rows, trial

EXACT = Mode.EXACT
YES, NO = True, False


def one_trial(arms: dict[Arm, list[ScoredProbe]], seed: int = 0) -> Trial:
    return Trial(configuration=PLAIN, seed=seed, step_id="tune", status=StepStatus.SUCCEEDED, arms=arms)


def test_retention_counts_only_what_was_right_before() -> None:
    trials = [trial(([YES, YES, YES, NO], [YES, YES, NO, YES]), ([YES, YES], [YES, NO]))]
    edits, controls = (retention(trials, kind, EXACT) for kind in (FactKind.EDIT, FactKind.CONTROL))
    assert (edits.numerator, edits.denominator) == (2, 3)
    assert (controls.numerator, controls.denominator) == (1, 2)


def test_seeds_are_pooled_with_all_answers_of_a_fact_together() -> None:
    answers = ([YES, YES], [YES, NO]), ([YES], [YES])
    trials = [trial(*answers, seed=0), trial(*answers, seed=1)]
    counts = retention(trials, FactKind.EDIT, EXACT)
    assert (counts.facts, counts.successes.tolist(), counts.trials.tolist()) == (
        ("edit:0", "edit:1"),
        [2, 0],
        [2, 2],
    )


def test_a_failed_trial_adds_nothing() -> None:
    trials = [trial(([YES, YES], [YES, NO]), ([YES], [YES])), failed_trial(1)]
    assert retention(trials, FactKind.EDIT, EXACT).denominator == 2


def test_retention_over_nothing_has_no_value() -> None:
    found = metric("retention", retention([failed_trial(0)], FactKind.EDIT, EXACT), EXACT)
    assert (found.denominator, found.value, found.interval) == (0, None, None)


def test_probes_without_an_alternative_do_not_count_in_preference_mode() -> None:
    arms = {
        Arm.EDITED: rows(Arm.EDITED, FactKind.CONTROL, [YES, YES], reverted=[None, NO]),
        Arm.EDITED_TUNED: rows(
            Arm.EDITED_TUNED,
            FactKind.CONTROL,
            [YES, YES],
            tuning_step=5,
            reverted=[None, NO],
        ),
    }
    assert retention([one_trial(arms)], FactKind.CONTROL, Mode.PREFERENCE).denominator == 1


def test_excess_decay_is_controls_minus_edits() -> None:
    found = excess_decay([trial(([YES] * 4, [YES, NO, NO, NO]), ([YES] * 4, [YES, YES, YES, NO]))], EXACT)
    assert found.value == pytest.approx(0.5)
    assert (found.edits, found.controls) == (4, 4)


def test_excess_decay_without_controls_is_not_measured() -> None:
    assert excess_decay([trial(([YES], [YES]), ([], []))], EXACT).value is None


def test_reversion_is_the_share_of_lost_edits_that_answer_target_true_again() -> None:
    after = rows(
        Arm.EDITED_TUNED,
        FactKind.EDIT,
        [YES, NO, NO, NO, NO],
        tuning_step=5,
        reverted=[NO, YES, YES, NO, YES],
    )
    arms = {Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, [YES, YES, YES, YES, NO]), Arm.EDITED_TUNED: after}
    counts = reversion([one_trial(arms)], EXACT)
    assert (counts.numerator, counts.denominator) == (2, 3)


def test_efficacy_is_the_share_of_edits_right_before_tuning() -> None:
    assert efficacy([trial(([YES, YES, NO], [NO] * 3), ([], []))], EXACT).value == pytest.approx(2 / 3)


def test_locality_counts_neighbours_that_were_right_in_the_base_model() -> None:
    arms = {
        arm: rows(arm, FactKind.EDIT, answers, probe_kind=ProbeKind.NEIGHBORHOOD)
        for arm, answers in ((Arm.BASE, [YES, YES, NO, YES]), (Arm.EDITED, [YES, NO, YES, YES]))
    }
    counts = locality([one_trial(arms)], EXACT)
    assert (counts.numerator, counts.denominator) == (2, 3)


def test_interaction_is_the_difference_in_differences_over_the_four_arms() -> None:
    answers = {
        Arm.BASE: [YES, YES, YES, YES],
        Arm.BASE_TUNED: [YES, YES, YES, NO],  # tuning alone loses 1 of 4
        Arm.EDITED: [YES, YES, YES, YES],
        Arm.EDITED_TUNED: [YES, NO, NO, NO],  # tuning the edited model loses 3 of 4
    }
    steps = {Arm.BASE_TUNED: 5, Arm.EDITED_TUNED: 5}
    arms = {
        arm: rows(arm, FactKind.CONTROL, right, tuning_step=steps.get(arm, 0))
        for arm, right in answers.items()
    }
    found = interaction([one_trial(arms)], EXACT)
    assert found.value == pytest.approx(-0.5)
    assert found.controls == 4


def test_interaction_without_the_base_models_tuning_is_not_measured() -> None:
    assert interaction([trial(([YES], [YES]), ([YES], [YES]))], EXACT).value is None


def test_shares_after_tuning_are_those_at_its_last_probed_step() -> None:
    arms = {
        Arm.EDITED_TUNED: rows(Arm.EDITED_TUNED, FactKind.EDIT, [YES, YES], tuning_step=1)
        + rows(Arm.EDITED_TUNED, FactKind.EDIT, [YES, NO], tuning_step=9)
    }
    found = share_right([one_trial(arms)], Arm.EDITED_TUNED, FactKind.EDIT, ProbeKind.REWRITE, EXACT)
    assert found.value == 0.5


def test_curve_has_a_point_per_probed_step_and_counts_returning_answers() -> None:
    arms = {
        Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, [YES, YES]),
        Arm.EDITED_TUNED: rows(Arm.EDITED_TUNED, FactKind.EDIT, [NO, NO], tuning_step=1)
        + rows(Arm.EDITED_TUNED, FactKind.EDIT, [YES, NO], tuning_step=9),
    }
    curve = retention_curve([one_trial(arms)], EXACT)
    assert [(point.tuning_step, point.edits.value, point.controls.value) for point in curve] == [
        (1, 0.0, None),
        (9, 0.5, None),
    ]
