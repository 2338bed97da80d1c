"""Areas under ROC curves, against scipy, DeLong's variance, a bootstrap and hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from services.worker.analysis.associations import (
    Case,
    association,
    clustered_area,
    logit_interval,
)


def one_stratum(values: np.ndarray, lost: np.ndarray) -> tuple[float, float]:
    found = clustered_area(values, lost, np.zeros(len(values), dtype=np.intp), np.arange(len(values)))
    assert found is not None
    return found


def drawn(generator: np.random.Generator, cases: int = 80) -> tuple[np.ndarray, np.ndarray]:
    lost = generator.random(cases) < 0.4
    return (generator.normal(size=cases) + 0.7 * lost).round(1), lost


def test_area_counts_pairs_and_halves_ties() -> None:
    area, _ = one_stratum(np.array([3.0, 1.0, 1.0, 2.0]), np.array([True, True, False, False]))
    assert area == pytest.approx((1 + 1 + 0.5 + 0) / 4)


def test_area_is_the_statistic_of_mann_and_whitney() -> None:
    values, lost = drawn(np.random.default_rng(0))
    expected = stats.mannwhitneyu(values[lost], values[~lost]).statistic / (lost.sum() * (~lost).sum())
    assert one_stratum(values, lost)[0] == pytest.approx(expected)


def test_variance_is_delongs() -> None:
    values, lost = drawn(np.random.default_rng(1), 400)
    pairs = (values[lost][:, None] > values[~lost]) + 0.5 * (values[lost][:, None] == values[~lost])
    rows, columns = pairs.mean(axis=1), pairs.mean(axis=0)
    expected = rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)
    assert one_stratum(values, lost)[1] == pytest.approx(expected, rel=0.01)


def test_strata_are_compared_within_themselves_only() -> None:
    values = np.array([1.0, 0.0, 11.0, 10.0])
    lost = np.array([True, False, True, False])
    found = clustered_area(values, lost, np.array([0, 0, 1, 1]), np.arange(4))
    assert found is not None
    assert found[0] == 1.0  # across strata the lost 1.0 would be below the kept 10.0


def test_a_stratum_without_losses_adds_nothing() -> None:
    values, lost = drawn(np.random.default_rng(2))
    strata = np.concatenate([np.zeros(len(values), dtype=np.intp), np.ones(5, dtype=np.intp)])
    found = clustered_area(
        np.concatenate([values, np.full(5, 99.0)]),
        np.concatenate([lost, np.zeros(5, dtype=bool)]),
        strata,
        np.arange(len(values) + 5),
    )
    assert found is not None
    assert found[0] == pytest.approx(one_stratum(values, lost)[0])


def test_edits_repeated_over_seeds_and_configurations_prove_no_more() -> None:
    values, lost = drawn(np.random.default_rng(3), 200)
    clusters, strata = np.tile(np.arange(200), 4), np.repeat([0, 0, 1, 1], 200)
    found = clustered_area(np.tile(values, 4), np.tile(lost, 4), strata, clusters)
    assert found is not None
    assert found == pytest.approx(one_stratum(values, lost))


def test_nothing_to_compare_has_no_area() -> None:
    assert (
        clustered_area(np.ones(3), np.ones(3, dtype=bool), np.zeros(3, dtype=np.intp), np.arange(3)) is None
    )


def test_logit_interval_by_hand() -> None:
    interval = logit_interval(0.8, 0.04**2)
    assert interval is not None
    centre, reach = np.log(4.0), 1.959964 * 0.04 / 0.16
    assert interval.low == pytest.approx(1 / (1 + np.exp(-(centre - reach))))
    assert interval.high == pytest.approx(1 / (1 + np.exp(-(centre + reach))))


def test_perfect_separation_has_no_interval() -> None:
    assert logit_interval(1.0, 0.0) is None


def cases(lost: int, kept: int) -> list[Case]:
    return [
        Case(0, f"edit:{i}", {"margin_before": float(i), "target_tokens": 1}, i < lost)
        for i in range(lost + kept)
    ]


def test_too_few_lost_edits_are_not_looked_at() -> None:
    assert association("margin_before", cases(4, 40)) is None


def test_a_feature_that_all_edits_share_is_left_out() -> None:
    assert association("target_tokens", cases(20, 20)) is None


def test_lost_edits_with_the_lowest_margins_have_an_area_of_zero() -> None:
    found = association("margin_before", cases(20, 20))
    assert found is not None
    assert (found.auc, found.lost, found.kept, found.edits, found.interval) == (0.0, 20, 20, 40, None)
