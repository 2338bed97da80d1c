"""The log-rank test, against hand calculation, scipy, statsmodels and permutations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.duration.survfunc import survdiff

from services.worker.analysis.lifetimes import LifeTable
from services.worker.analysis.log_rank import (
    excess_losses,
    hazard_ratio,
    hypergeometric_variance,
    log_rank,
    permutation_variance,
    residuals,
)
from tests.worker.analysis.tables import STEPS, drawn_table, table


def pair(seed: int, *, facts: tuple[int, int] = (60, 120), **options: float) -> tuple[LifeTable, LifeTable]:
    generator = np.random.default_rng(seed)
    return (
        drawn_table(generator, 1.2, facts[0], of="edit", **options),  # type: ignore[arg-type]
        drawn_table(generator, 0.6, facts[1], of="control", **options),  # type: ignore[arg-type]
    )


def rows(found: LifeTable) -> tuple[np.ndarray, np.ndarray]:
    """Times and losses of tables with one trial per fact."""
    lost = found.lost.any(axis=1)
    ends = (found.at_risk > 0).sum(axis=1) - 1
    return np.array(STEPS, dtype=float)[ends], lost


def test_excess_losses_and_variance_by_hand() -> None:
    # Step 1: 1 of 2 edits and 0 of 2 controls are lost; step 3: of the 1 edit and 2 controls left, 1 control.
    edits = table([1, 3], [True, False], steps=(1, 3))
    controls = table([3, 3], [True, False], steps=(1, 3), of="control")
    assert excess_losses(edits, controls) == pytest.approx((1 - 2 / 4) + (0 - 1 / 3))
    first, second = 1 * 3 * 2 * 2 / (16 * 3), 1 * 2 * 1 * 2 / (9 * 2)
    assert hypergeometric_variance(edits, controls) == pytest.approx(first + second)


def test_the_test_is_that_of_scipy() -> None:
    edits, controls = pair(0)
    data = []
    for found in (edits, controls):
        times, lost = rows(found)
        data.append(stats.CensoredData(uncensored=times[lost], right=times[~lost]))
    expected = stats.logrank(*data)
    found_test = log_rank(edits, controls)
    assert found_test is not None
    assert found_test.chi_squared == pytest.approx(expected.statistic**2)
    assert found_test.p_value == pytest.approx(expected.pvalue)


def test_the_test_is_that_of_statsmodels() -> None:
    edits, controls = pair(1)
    (first, first_lost), (second, second_lost) = rows(edits), rows(controls)
    chi_squared, p_value = survdiff(
        np.concatenate([first, second]),
        np.concatenate([first_lost, second_lost]).astype(float),
        np.repeat([0, 1], [len(first), len(second)]),
    )
    found = log_rank(edits, controls)
    assert found is not None
    assert (found.chi_squared, found.p_value) == pytest.approx((chi_squared, p_value))


def test_residuals_add_up_to_zero() -> None:
    first, second = residuals(*pair(2, seeds=3, correlation=0.5))
    assert first.sum() + second.sum() == pytest.approx(0)


def test_permutation_variance_is_that_over_permuted_facts() -> None:
    edits, controls = pair(3, facts=(20, 40), seeds=3, correlation=0.6)
    everyone = np.concatenate(residuals(edits, controls))
    generator = np.random.default_rng(0)
    permuted = [generator.permutation(everyone)[: len(edits.facts)].sum() for _ in range(20_000)]
    assert permutation_variance(edits, controls) == pytest.approx(np.var(permuted), rel=0.05)


def test_seeds_that_repeat_each_other_prove_no_more() -> None:
    once = pair(4)
    thrice = tuple(LifeTable(found.facts, found.steps, 3 * found.at_risk, 3 * found.lost) for found in once)
    one, three = log_rank(*once), log_rank(*thrice)
    assert one is not None
    assert three is not None
    assert three.chi_squared == pytest.approx(one.chi_squared, rel=0.1)


def test_hazard_ratio_is_that_of_exponential_lifetimes() -> None:
    generator = np.random.default_rng(5)
    edits, controls = drawn_table(generator, 0.8, 20_000), drawn_table(generator, 0.4, 20_000, of="control")
    ratio, interval = hazard_ratio(edits, controls)
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert interval is not None
    assert interval.low < 2.0 < interval.high


def test_a_side_that_lost_nothing_has_no_hazard_ratio_but_a_test() -> None:
    edits = table([1] * 10 + [3] * 10, [True] * 10 + [False] * 10, steps=(1, 3))
    controls = table([3] * 20, [False] * 20, steps=(1, 3), of="control")
    found = log_rank(edits, controls)
    assert found is not None
    assert (found.hazard_ratio, found.hazard_ratio_interval) == (None, None)
    assert found.p_value < 0.01


def test_nothing_lost_cannot_be_tested() -> None:
    edits, controls = (table([3] * 5, [False] * 5, of=of) for of in ("edit", "control"))
    assert log_rank(edits, controls) is None
