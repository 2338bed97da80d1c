"""Which edits were lost, when and to what; and the riskiest over all configurations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.worker.analysis.deaths import lost_edits, mean_drift
from services.worker.analysis.inputs import EditFeatures, ScoredProbe, Trial
from services.worker.analysis.report import build_report
from services.worker.analysis.risks import riskiest
from shared.measurement import Arm, FactKind, Mode
from shared.reports import Mentions, WeightDrift, WentTo
from shared.requests import Configuration
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, failed_trial, findings, rows

EXACT = Mode.EXACT
YES, NO = True, False
WORDS = Mentions(target_new=4, target_true=1, subject=0)
FEATURES = {
    f"edit:{index}": EditFeatures(
        index=index,
        prompt=f"{{}} number {index} lives in",
        subject="Ada",
        target_new="Rome",
        target_true="Oslo",
        paraphrases=2,
        target_tokens=1,
        mentions={PLAIN.recipe: WORDS},
    )
    for index in range(4)
}
OTHER = Configuration(editor="rome", paraphrases=0, recipe="other", freeze="none")


def followed(
    answers: dict[int, list[bool]],
    reverted: dict[int, list[bool]] | None = None,
    *,
    seed: int = 0,
    configuration: Configuration = PLAIN,
    margins: list[float] | None = None,
) -> Trial:
    """A trial of edits from their answers at each probed step; step 0 is the edited model."""
    after: list[ScoredProbe] = []
    for step, right in answers.items():
        if step:
            gone = (reverted or {}).get(step, [NO] * len(right))
            after += rows(Arm.EDITED_TUNED, FactKind.EDIT, right, tuning_step=step, reverted=gone)
    arms = {Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, answers[0], margins=margins), Arm.EDITED_TUNED: after}
    return Trial(
        configuration=configuration, seed=seed, step_id="tune", status=StepStatus.SUCCEEDED, arms=arms
    )


FIRST = followed(
    {0: [YES, YES, YES, NO], 1: [YES, NO, YES, NO], 9: [NO, YES, YES, NO]},
    {9: [YES, NO, NO, NO]},
    margins=[0.5, 1.5, 2.5, 3.5],
)
SECOND = followed({0: [YES, YES, YES, NO], 1: [NO, YES, YES, NO], 9: [NO, YES, YES, NO]}, seed=1)


def test_a_loss_is_told_with_its_interval_of_steps_and_what_it_went_to() -> None:
    first, second = lost_edits([FIRST], EXACT, FEATURES, PLAIN.recipe)
    (early,), (late,) = first.losses, second.losses
    assert (first.index, early.right_until, early.wrong_at, early.went_to) == (1, 0, 1, WentTo.OTHER)
    assert (second.index, late.right_until, late.wrong_at, late.went_to) == (0, 1, 9, WentTo.TARGET_TRUE)
    assert (early.right_at_end, late.right_at_end) == (True, False)
    assert early.answer == " Paris"


def test_a_lost_answer_is_told_up_to_where_it_differs() -> None:
    found = followed({0: [YES], 9: [NO]})
    (row,) = found.arms[Arm.EDITED_TUNED]
    said = replace(row, score=replace(row.score, predicted_answer=" New York"))
    told = replace(found, arms={**found.arms, Arm.EDITED_TUNED: [said]})
    assert lost_edits([told], EXACT, FEATURES, PLAIN.recipe)[0].losses[0].answer == " New York"


def test_an_edit_is_told_with_its_margin_and_the_words_of_the_recipes_data() -> None:
    found = lost_edits([FIRST], EXACT, FEATURES, PLAIN.recipe)
    assert [edit.margin_before for edit in found] == pytest.approx([1.5, 0.5])
    assert all(edit.mentions == WORDS for edit in found)
    assert lost_edits([FIRST], EXACT, FEATURES, "other")[0].mentions is None


def test_what_most_seeds_lose_comes_first() -> None:
    found = lost_edits([FIRST, SECOND], EXACT, FEATURES, PLAIN.recipe)
    assert [(edit.index, len(edit.losses), edit.trials) for edit in found] == [(0, 2, 2), (1, 1, 2)]


def test_edits_that_were_not_right_before_tuning_cannot_be_lost() -> None:
    found = lost_edits([FIRST, SECOND, failed_trial(2)], EXACT, FEATURES, PLAIN.recipe)
    assert {edit.index for edit in found} == {0, 1}


def test_riskiest_edits_pool_configurations() -> None:
    third = followed({0: [YES, YES], 5: [YES, NO]}, {5: [NO, YES]}, configuration=OTHER)
    told = replace(findings([FIRST, SECOND, third]), features=FEATURES)
    first, second = riskiest(told, EXACT)
    assert (first.index, first.lost, first.trials, first.median_step) == (1, 2, 3, 3.0)
    assert (second.index, second.lost, second.trials, second.median_step) == (0, 2, 3, 5.0)
    assert first.went_to == {WentTo.OTHER: 1, WentTo.TARGET_TRUE: 1}
    assert (first.prompt, first.target_new, first.answers) == ("{} number 1 lives in", "Rome", [" Paris"])


def test_the_report_lists_lost_edits_and_the_riskiest() -> None:
    report = build_report(replace(findings([FIRST, SECOND]), features=FEATURES))
    assert [edit.index for edit in report.configurations[0].lost_edits] == [0, 1]
    assert report.configurations[0].lost_edits_left_out == 0
    assert [edit.index for edit in report.riskiest] == [0, 1]


def drift(name: str, tuning_norm: float, cosine: float | None) -> WeightDrift:
    return WeightDrift(
        parameter=name,
        rows=4,
        columns=8,
        rank=2,
        seeds=1,
        edit_norm=1.0,
        tuning_norm=tuning_norm,
        cosine=cosine,
        energy_left=0.5,
        energy_right=0.25,
        energy_inside=None,
    )


def test_drift_is_the_mean_over_the_seeds_that_measured_it() -> None:
    trials = [
        replace(FIRST, drift=[drift("a", 1.0, 0.2), drift("b", 0.0, None)]),
        replace(SECOND, drift=[drift("a", 3.0, 0.4), drift("b", 0.0, None)]),
        failed_trial(2),
    ]
    first, second = mean_drift(trials)
    assert (first.parameter, first.seeds, first.tuning_norm) == ("a", 2, 2.0)
    assert first.cosine == pytest.approx(0.3)
    assert (second.cosine, second.energy_left, second.energy_inside) == (None, 0.5, None)
