"""Survival curves, against hand calculation, scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight

from services.worker.analysis.counts import FactCounts
from services.worker.analysis.intervals import design_effect
from services.worker.analysis.kaplan_meier import (
    clustered_variance,
    greenwood_variance,
    kaplan_meier,
    log_log_limits,
    log_variance,
    survival_design_effect,
    survival_intervals,
)
from tests.worker.analysis.tables import STEPS, drawn_table, table

# Seven facts: lost at 1, 3, 3 and 8; one seen until 3 only, two until 8.
TIMES, LOST = [1, 3, 3, 3, 8, 8, 8], [True, True, True, False, True, False, False]


def censored_at_random(generator: np.random.Generator, facts: int = 200) -> tuple[list[int], list[bool]]:
    times = generator.choice(STEPS, facts)
    return times.tolist(), (generator.random(facts) < 0.6).tolist()


def test_curve_is_the_product_of_the_shares_that_are_left() -> None:
    assert kaplan_meier(table(TIMES, LOST)) == pytest.approx([6 / 7, 6 / 7 * 4 / 6, 6 / 7 * 4 / 6 * 2 / 3])


def test_greenwoods_sum_by_hand() -> None:
    found = table(TIMES, LOST)
    variance = greenwood_variance(found.at_risk.sum(axis=0), found.lost.sum(axis=0))
    first, second, third = 1 / (7 * 6), 2 / (6 * 4), 1 / (3 * 2)
    assert variance == pytest.approx([first, first + second, first + second + third])


def test_curve_and_limits_are_those_of_scipy() -> None:
    times, lost = censored_at_random(np.random.default_rng(0))
    found = table(times, lost, steps=STEPS)
    data = stats.CensoredData(
        uncensored=[t for t, gone in zip(times, lost, strict=True) if gone],
        right=[t for t, gone in zip(times, lost, strict=True) if not gone],
    )
    survival = stats.ecdf(data).sf
    assert kaplan_meier(found) == pytest.approx(survival.evaluate(np.array(STEPS)))
    expected = survival.confidence_interval(0.95, method="log-log")
    inside = [interval for interval in survival_intervals(found) if interval.method.startswith("log-log")]
    lows, highs = expected.low.evaluate(np.array(STEPS)), expected.high.evaluate(np.array(STEPS))
    assert len(inside) >= 4
    assert [interval.low for interval in inside] == pytest.approx(lows[: len(inside)])
    assert [interval.high for interval in inside] == pytest.approx(highs[: len(inside)])


def test_curve_and_variance_are_those_of_statsmodels() -> None:
    times, lost = censored_at_random(np.random.default_rng(1))
    found = table(times, lost, steps=STEPS)
    expected = SurvfuncRight(np.array(times, dtype=float), np.array(lost, dtype=float))
    values, variance = kaplan_meier(found), log_variance(found)
    last = len(expected.surv_prob)
    assert values[:last] == pytest.approx(expected.surv_prob)
    assert (values * np.sqrt(variance))[: last - 1] == pytest.approx(expected.surv_prob_se[: last - 1])


def test_with_one_trial_per_fact_the_clustered_variance_is_greenwoods() -> None:
    times, lost = censored_at_random(np.random.default_rng(2))
    found = table(times, lost, steps=STEPS)
    plain = greenwood_variance(found.at_risk.sum(axis=0), found.lost.sum(axis=0))
    assert clustered_variance(found) == pytest.approx(plain)


def test_seeds_that_repeat_each_other_leave_the_interval_as_it_is() -> None:
    once = table(TIMES, LOST)
    thrice = table([t for t in TIMES for _ in range(3)], [gone for gone in LOST for _ in range(3)], seeds=3)
    assert kaplan_meier(thrice) == pytest.approx(kaplan_meier(once))
    for one, three in zip(survival_intervals(once), survival_intervals(thrice), strict=True):
        assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=0.04)


def test_clustered_variance_is_that_of_a_bootstrap_over_facts() -> None:
    generator = np.random.default_rng(3)
    found = drawn_table(generator, 1.0, 150, seeds=3, correlation=0.6)
    weights = generator.multinomial(150, np.full(150, 1 / 150), size=4000).astype(float)
    at_risk, lost = weights @ found.at_risk, weights @ found.lost
    logs = np.log(np.cumprod(1 - lost / at_risk, axis=1))
    assert clustered_variance(found) == pytest.approx(logs.var(axis=0), rel=0.1)


def test_without_early_ends_the_design_effect_is_that_of_the_share_that_survived() -> None:
    found = drawn_table(np.random.default_rng(4), 0.7, 60, seeds=3, correlation=0.5)
    for index, effect in enumerate(survival_design_effect(found)):
        survived = found.trials - found.lost[:, : index + 1].sum(axis=1)
        assert effect == pytest.approx(design_effect(FactCounts(found.facts, survived, found.trials)))


def test_limits_are_inside_0_and_1() -> None:
    for value in (0.99, 0.01):
        low, high = log_log_limits(value, 4.0)
        assert 0 <= low < value < high <= 1


@pytest.mark.parametrize("lost", [False, True])
def test_where_all_agree_the_limits_are_the_exact_ones_on_facts(lost: bool) -> None:
    found = table([60] * 60, [lost] * 60, seeds=3)
    (interval,) = survival_intervals(found)
    exact = stats.binomtest(0 if lost else 20, 20).proportion_ci(0.95)
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))


def test_a_loss_that_is_less_than_one_facts_worth_leaves_an_interval_of_use() -> None:
    facts, seeds = 90, 48
    found = table([60] * facts * seeds, [True] + [False] * (facts * seeds - 1), seeds=seeds)
    (interval,) = survival_intervals(found)
    nothing_lost = stats.binomtest(facts, facts).proportion_ci(0.95)
    assert interval.low == pytest.approx(nothing_lost.low, abs=0.002)
    assert interval.low < 1 - 1 / (facts * seeds) < interval.high
