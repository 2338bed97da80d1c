"""Mitigations are compared with the plainest configuration of the same editor and recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from services.worker.analysis.inputs import Trial
from services.worker.analysis.mitigations import plain_sibling, rank_mitigations
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports.parts import PER_PAIR
from shared.requests import Configuration
from tests.worker.analysis.synthetic import failed_trial, findings, rows, trial
from tests.worker.analysis.test_gate import kept

CONTROLS = kept(20, 20)


def configuration(
    paraphrases: int, freeze: str = "none", editor: str = "memit", recipe: str = "wiki"
) -> Configuration:
    return Configuration(editor=editor, paraphrases=paraphrases, recipe=recipe, freeze=freeze)


def test_plain_sibling_has_the_fewest_paraphrases_and_nothing_frozen() -> None:
    present = [
        configuration(3, "edited"),
        configuration(3),
        configuration(1),
        configuration(1, "edited"),
    ]
    assert plain_sibling(present[0], present) == configuration(1)


def test_plain_sibling_shares_editor_and_recipe() -> None:
    present = [configuration(3), configuration(0, editor="rome"), configuration(0, recipe="other")]
    assert plain_sibling(present[0], present) == configuration(3)


def test_without_an_unfrozen_one_the_plain_sibling_is_frozen() -> None:
    present = [configuration(3, "edited"), configuration(0, "edited")]
    assert plain_sibling(present[0], present) == configuration(0, "edited")


def test_gain_and_cost_are_differences_from_the_plain_sibling() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0),
        trial(kept(45, 50), CONTROLS, configuration=configuration(3), loss_after=3.25),
    ]
    found = rank_mitigations(findings(trials), Mode.EXACT)
    assert len(found) == 1
    assert found[0].against == configuration(0)
    assert found[0].retention_gained.value == pytest.approx(0.3)
    assert found[0].retention_gained.interval is not None
    assert found[0].retention_gained.interval.low > 0.1
    assert found[0].task_loss_cost.value == pytest.approx(0.25)
    assert found[0].gained_per_nat == pytest.approx(0.3 / 0.25)


def test_most_retention_gained_ranks_first_and_the_unmeasured_last() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0)),
        failed_trial(0, configuration(1)),
        trial(kept(35, 50), CONTROLS, configuration=configuration(3)),
        trial(kept(45, 50), CONTROLS, configuration=configuration(5)),
    ]
    ranked = rank_mitigations(findings(trials), Mode.EXACT)
    assert [(found.rank, found.configuration.paraphrases) for found in ranked] == [(1, 5), (2, 3), (3, 1)]


def test_equal_gains_rank_by_their_cost() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0),
        trial(kept(40, 50), CONTROLS, configuration=configuration(1), loss_after=3.2),
        trial(kept(40, 50), CONTROLS, configuration=configuration(3), loss_after=3.1),
    ]
    ranked = rank_mitigations(findings(trials), Mode.EXACT)
    assert [found.configuration.paraphrases for found in ranked] == [3, 1]


def test_task_cost_compares_only_seeds_that_both_have() -> None:
    trials = [
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=3.0, seed=0),
        trial(kept(30, 50), CONTROLS, configuration=configuration(0), loss_after=9.0, seed=1),
        trial(kept(40, 50), CONTROLS, configuration=configuration(3), loss_after=3.5, seed=0),
    ]
    assert rank_mitigations(findings(trials), Mode.EXACT)[0].task_loss_cost.value == pytest.approx(0.5)


def test_a_single_configuration_has_no_mitigations() -> None:
    assert rank_mitigations(findings([trial(kept(3, 5), CONTROLS)]), Mode.EXACT) == []


def test_costs_on_the_task_have_an_interval_over_paired_seeds() -> None:
    trials = [
        trial(
            kept(30, 50),
            CONTROLS,
            configuration=configuration(count),
            loss_after=loss + 0.1 * seed,
            seed=seed,
        )
        for count, losses in ((0, (3.0, 3.1, 3.2)), (3, (3.1, 3.2, 3.6)))
        for seed, loss in enumerate(losses)
    ]
    cost = rank_mitigations(findings(trials), Mode.EXACT)[0].task_loss_cost
    assert cost.value == pytest.approx(0.2)  # 0.1, 0.1 and 0.4
    assert cost.interval is not None
    expected = stats.ttest_1samp([0.1, 0.1, 0.4], 0.0).confidence_interval(0.95)
    assert (cost.interval.low, cost.interval.high) == pytest.approx((expected.low, expected.high))


def test_costs_of_learned_preferences_are_per_pair_and_relative_to_each_start() -> None:
    per_token = [trial(kept(30, 50), CONTROLS, configuration=configuration(count)) for count in (0, 3)]
    per_pair = [replace(found, loss_unit=PER_PAIR) for found in per_token]
    costs = [rank_mitigations(findings(side), Mode.EXACT)[0].task_loss_cost for side in (per_token, per_pair)]
    assert [cost.unit for cost in costs] == ["nats per token", "nats per pair"]
    assert ["own model before tuning" in cost.how for cost in costs] == [False, True]
    page = render_page(build_report(findings(per_pair)))
    assert "nats per pair" in page
    assert "nats per token" not in page


def test_one_seed_leaves_the_cost_on_the_task_without_an_interval() -> None:
    trials = [trial(kept(30, 50), CONTROLS, configuration=configuration(count)) for count in (0, 3)]
    cost = rank_mitigations(findings(trials), Mode.EXACT)[0].task_loss_cost
    assert (cost.value, cost.interval, cost.seeds) == (0.0, None, 1)


def neighbours(found: Trial, spared: int, spared_tuned: int) -> Trial:
    """The trial with 40 neighbourhood prompts, all right in the base model."""
    base, edited, tuned = (
        rows(arm, FactKind.EDIT, answers, tuning_step=step, probe_kind=ProbeKind.NEIGHBORHOOD)
        for arm, answers, step in (
            (Arm.BASE, [True] * 40, 0),
            (Arm.EDITED, kept(spared, 40)[1], 0),
            (Arm.EDITED_TUNED, kept(spared_tuned, 40)[1], 10),
        )
    )
    arms = {
        Arm.BASE: base,
        Arm.EDITED: [*found.arms[Arm.EDITED], *edited],
        Arm.EDITED_TUNED: [*found.arms[Arm.EDITED_TUNED], *tuned],
    }
    return replace(found, arms=arms)


def test_cost_on_locality_is_measured_before_and_after_tuning() -> None:
    plain = neighbours(trial(kept(30, 50), CONTROLS, configuration=configuration(0)), 36, 30)
    other = neighbours(trial(kept(40, 50), CONTROLS, configuration=configuration(3)), 32, 20)
    (found,) = rank_mitigations(findings([plain, other]), Mode.EXACT)
    assert found.locality_cost.value == pytest.approx(0.1)
    assert found.locality_cost_tuned.value == pytest.approx(0.25)
    assert found.locality_cost_tuned.interval is not None
    assert found.locality_cost_tuned.interval.low > 0
    assert found.gained_per_neighbour == pytest.approx(0.2 / 0.25)
    assert [(part.numerator, part.denominator) for part in found.locality_cost_tuned.terms] == [
        (30, 40),
        (20, 40),
    ]


def test_freezing_cannot_cost_locality_before_tuning() -> None:
    trials = [
        neighbours(trial(kept(30, 50), CONTROLS, configuration=configuration(0, freeze)), 36, spared)
        for freeze, spared in (("none", 30), ("edited", 34))
    ]
    (found,) = rank_mitigations(findings(trials), Mode.EXACT)
    assert found.locality_cost.interval is not None
    assert (found.locality_cost.interval.low, found.locality_cost.interval.high) == (0.0, 0.0)
    assert found.locality_cost_tuned.value == pytest.approx(-0.1)


def test_what_gains_less_at_a_higher_cost_is_off_the_front() -> None:
    trials = [
        trial(kept(gained, 50), CONTROLS, configuration=configuration(count), loss_after=loss)
        for count, gained, loss in ((0, 30, 3.0), (1, 40, 3.1), (3, 45, 3.3), (5, 38, 3.2))
    ]
    ranked = rank_mitigations(findings(trials), Mode.EXACT)
    assert [(found.configuration.paraphrases, found.front, found.pareto) for found in ranked] == [
        (3, 1, True),
        (1, 1, True),
        (5, 2, False),
    ]


def test_what_gains_nothing_is_dominated_by_doing_without() -> None:
    trials = [
        trial(kept(kept_edits, 50), CONTROLS, configuration=configuration(count), loss_after=loss)
        for count, kept_edits, loss in ((0, 30, 3.0), (3, 29, 3.1))
    ]
    (found,) = rank_mitigations(findings(trials), Mode.EXACT)
    assert (found.front, found.pareto, found.gained_per_nat) == (2, False, pytest.approx(-0.02 / 0.1))


def test_editors_are_not_compared_with_each_other() -> None:
    trials = [
        trial(kept(gained, 50), CONTROLS, configuration=configuration(count, editor=editor))
        for editor, count, gained in (("memit", 0, 20), ("memit", 3, 25), ("rome", 0, 20), ("rome", 3, 45))
    ]
    assert [found.front for found in rank_mitigations(findings(trials), Mode.EXACT)] == [1, 1]
