"""Intervals and bounds of clustered shares, against statsmodels, scipy and hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from services.worker.analysis.counts import FactCounts
from services.worker.analysis.intervals import (
    Share,
    design_effect,
    exact_bounds,
    exact_difference_bounds,
    share_of,
    wilson_interval,
)

CASES = [(0, 1), (1, 1), (0, 7), (7, 7), (3, 10), (45, 50), (199, 200), (500, 1000)]


def counts(successes: list[int], trials: list[int]) -> FactCounts:
    facts = tuple(f"edit:{index}" for index in range(len(trials)))
    return FactCounts(facts, np.array(successes, dtype=float), np.array(trials, dtype=float))


@pytest.mark.parametrize(("right", "trials"), CASES)
def test_wilson_interval_is_that_of_statsmodels(right: int, trials: int) -> None:
    interval = wilson_interval(Share(right / trials, trials))
    expected = proportion_confint(right, trials, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("right", "trials"), CASES)
def test_exact_bounds_are_those_of_the_binomial_test(right: int, trials: int) -> None:
    lower, upper = exact_bounds(Share(right / trials, trials))
    expected_lower = stats.binomtest(right, trials, alternative="greater").proportion_ci(0.95).low
    expected_upper = stats.binomtest(right, trials, alternative="less").proportion_ci(0.95).high
    assert (lower, upper) == pytest.approx((expected_lower, expected_upper), abs=1e-9)


def test_one_answer_per_fact_has_no_design_effect() -> None:
    assert design_effect(counts([1, 0, 1, 1, 0], [1] * 5)) == 1.0


def test_seeds_that_always_agree_count_once() -> None:
    successes = [3] * 35 + [0] * 5
    share = share_of(counts(successes, [3] * 40))
    assert share is not None
    assert share.effective_trials == pytest.approx(40)


def test_seeds_that_never_agree_more_than_by_chance_count_in_full() -> None:
    generator = np.random.default_rng(0)
    successes = generator.binomial(4, 0.6, 2000)
    assert design_effect(counts(successes.tolist(), [4] * 2000)) == pytest.approx(1.0, abs=0.1)


def test_design_effect_is_estimated_from_the_agreement_of_seeds() -> None:
    generator = np.random.default_rng(0)
    correlation, seeds = 0.5, 3
    chances = generator.beta(
        0.7 * (1 - correlation) / correlation, 0.3 * (1 - correlation) / correlation, 5000
    )
    successes = generator.binomial(seeds, chances)
    kish = 1 + (seeds - 1) * correlation
    assert design_effect(counts(successes.tolist(), [seeds] * 5000)) == pytest.approx(kish, rel=0.05)


@pytest.mark.parametrize("successes", [[3, 3, 3, 3], [0, 0, 0, 0]])
def test_unanimous_answers_are_worth_one_per_fact(successes: list[int]) -> None:
    share = share_of(counts(successes, [3] * 4))
    assert share is not None
    assert share.effective_trials == pytest.approx(4)


def test_nothing_has_no_share() -> None:
    assert share_of(FactCounts.of([])) is None


def test_difference_bounds_combine_the_bounds_of_both_shares() -> None:
    controls, edits = Share(0.95, 100), Share(0.8, 50)
    control_low, control_high = exact_bounds(controls)
    edit_low, edit_high = exact_bounds(edits)
    lower, upper = exact_difference_bounds(controls, edits)
    assert 0.15 - lower == pytest.approx(np.hypot(0.95 - control_low, edit_high - 0.8))
    assert upper - 0.15 == pytest.approx(np.hypot(control_high - 0.95, 0.8 - edit_low))


def test_five_kept_edits_of_five_do_not_prove_that_excess_decay_is_small() -> None:
    _, upper = exact_difference_bounds(Share(0.95, 200), Share(1.0, 5))
    assert upper > 0.35
