"""The bootstrap resamples whole facts and is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from services.worker.analysis import bootstrap
from services.worker.analysis.bootstrap import (
    bootstrap_interval,
    difference_of_shares,
    paired_shares_sample,
    resampled_sums,
    share_sample,
)
from services.worker.analysis.counts import FactCounts


def answers(kept: int, facts: int, seeds: int = 1) -> FactCounts:
    ids = tuple(f"edit:{index:04}" for index in range(facts))
    successes = np.zeros(facts)
    successes[:kept] = seeds
    return FactCounts(ids, successes, np.full(facts, float(seeds)))


def interval_of(controls: FactCounts, edits: FactCounts, **options: int) -> tuple[float, float]:
    samples = [share_sample(counts.successes, counts.trials) for counts in (controls, edits)]
    assert controls.value is not None
    assert edits.value is not None
    found = bootstrap_interval(difference_of_shares, samples, controls.value - edits.value, **options)
    return found.low, found.high


def test_same_seed_gives_the_same_interval() -> None:
    assert interval_of(answers(90, 100), answers(30, 50)) == interval_of(answers(90, 100), answers(30, 50))


def test_another_seed_gives_another_interval() -> None:
    first = interval_of(answers(90, 100), answers(30, 50), seed=1)
    assert interval_of(answers(90, 100), answers(30, 50), seed=2) != first


def test_large_samples_give_the_normal_interval() -> None:
    low, high = interval_of(answers(1800, 2000), answers(1400, 2000), resamples=20_000)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 2000 + 0.7 * 0.3 / 2000)
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=2e-3)


def test_seeds_that_repeat_each_other_do_not_narrow_the_interval() -> None:
    once = interval_of(answers(90, 100), answers(30, 50), resamples=20_000)
    thrice = interval_of(answers(90, 100, 3), answers(30, 50, 3), resamples=20_000)
    assert thrice == pytest.approx(once, abs=5e-3)


def test_unanimous_answers_leave_an_interval() -> None:
    low, high = interval_of(answers(100, 100), answers(5, 5))
    assert low < 0 < high


def test_the_estimate_is_inside_even_at_the_edge() -> None:
    low, high = interval_of(answers(4, 4), answers(0, 4))
    assert low < high == 1.0


def test_pairing_narrows_the_interval_of_answers_that_go_together() -> None:
    first, second = answers(80, 100), answers(70, 100)
    paired = bootstrap_interval(difference_of_shares, [paired_shares_sample(first, second)], 0.1)
    low, high = interval_of(first, second)
    assert paired.high - paired.low < 0.75 * (high - low)


def test_drawing_classes_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = share_sample(answers(30, 50).successes, answers(30, 50).trials)
    whole = resampled_sums(sample, np.random.default_rng(0), 100)
    monkeypatch.setattr(bootstrap, "MAX_DRAWN_AT_ONCE", 10)
    assert np.array_equal(resampled_sums(sample, np.random.default_rng(0), 100), whole)


def test_every_resample_draws_as_many_facts_as_there_are_and_two_more() -> None:
    sample = share_sample(answers(30, 50).successes, answers(30, 50).trials)
    sums = resampled_sums(sample, np.random.default_rng(0), 500)
    assert np.unique(sums[:, 1]).tolist() == [52.0]
