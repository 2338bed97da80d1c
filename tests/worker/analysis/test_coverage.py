"""Intervals hold what they promise, on answers drawn at random many times over (seeded)."""

from __future__ import annotations

import numpy as np
import pytest

from services.worker.analysis.bootstrap import bootstrap_interval, difference_of_shares, share_sample
from services.worker.analysis.counts import FactCounts
from services.worker.analysis.gate import judge
from services.worker.analysis.intervals import (
    exact_bounds,
    exact_difference_bounds,
    share_of,
    wilson_interval,
)
from shared.requests import GateRule
from shared.states import Verdict

DRAWS = 1500
SIZES = (10, 20, 50, 100, 200)
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
SEEDS, CORRELATION = 3, 0.6


def drawn(
    generator: np.random.Generator, share: float, facts: int, *, seeds: int = 1, correlation: float = 0.0
) -> FactCounts:
    """Answers of facts whose chances differ so that two seeds of a fact correlate as given."""
    chances = np.full(facts, share)
    if correlation:
        spread = (1 - correlation) / correlation
        chances = generator.beta(share * spread, (1 - share) * spread, facts)
    successes = generator.binomial(seeds, chances).astype(float)
    return FactCounts(tuple(map(str, range(facts))), successes, np.full(facts, float(seeds)))


def retention_coverage(generator: np.random.Generator, **seeds: float) -> float:
    """Share of Wilson intervals that hold the truth, over sizes and shares drawn at random."""
    held = 0
    for _ in range(DRAWS):
        share = float(generator.uniform(0.5, 0.95))
        counts = drawn(generator, share, int(generator.choice(SIZES)), **seeds)  # type: ignore[arg-type]
        found = share_of(counts)
        assert found is not None
        interval = wilson_interval(found)
        held += interval.low <= share <= interval.high
    return held / DRAWS


def excess_decay_coverage(generator: np.random.Generator, draws: int, **seeds: float) -> float:
    """Share of bootstrap intervals that hold the truth, over sizes and shares drawn at random."""
    held = 0
    for _ in range(draws):
        truths = generator.uniform(0.5, 0.95, 2)
        sizes = generator.choice(SIZES[1:], 2)
        controls, edits = (
            drawn(generator, float(truth), int(size), **seeds)  # type: ignore[arg-type]
            for truth, size in zip(truths, sizes, strict=True)
        )
        assert controls.value is not None
        assert edits.value is not None
        samples = [share_sample(counts.successes, counts.trials) for counts in (controls, edits)]
        interval = bootstrap_interval(
            difference_of_shares, samples, controls.value - edits.value, seed=int(generator.integers(2**31))
        )
        held += interval.low <= truths[0] - truths[1] <= interval.high
    return held / draws


def test_intervals_of_retention_cover_at_their_level() -> None:
    assert 0.93 <= retention_coverage(np.random.default_rng(1)) <= 0.97


def test_intervals_of_retention_cover_with_correlated_seeds() -> None:
    assert retention_coverage(np.random.default_rng(2), seeds=SEEDS, correlation=CORRELATION) >= 0.93


def test_intervals_of_excess_decay_cover_at_their_level() -> None:
    assert 0.93 <= excess_decay_coverage(np.random.default_rng(3), DRAWS) <= 0.97


def test_intervals_of_excess_decay_cover_with_correlated_seeds() -> None:
    found = excess_decay_coverage(np.random.default_rng(4), DRAWS, seeds=SEEDS, correlation=CORRELATION)
    assert found >= 0.93


@pytest.mark.parametrize("seeds", [{}, {"seeds": SEEDS, "correlation": CORRELATION}], ids=["one", "three"])
def test_gate_passes_a_share_at_its_threshold_at_most_5_percent_of_the_time(seeds: dict[str, float]) -> None:
    generator = np.random.default_rng(5)
    passed = 0
    for _ in range(DRAWS):
        threshold = float(generator.choice(SHARES))
        found = share_of(drawn(generator, threshold, int(generator.choice(SIZES)), **seeds))  # type: ignore[arg-type]
        assert found is not None
        rule = GateRule(metric="retention", at_least=threshold)
        passed += judge(rule, *exact_bounds(found)) is Verdict.PASS
    assert passed / DRAWS <= 0.05


@pytest.mark.parametrize("seeds", [{}, {"seeds": SEEDS, "correlation": CORRELATION}], ids=["one", "three"])
def test_gate_passes_excess_decay_at_its_threshold_at_most_5_percent_of_the_time(
    seeds: dict[str, float],
) -> None:
    generator = np.random.default_rng(6)
    passed = 0
    for _ in range(DRAWS):
        kept = float(generator.choice(SHARES))
        controls = share_of(drawn(generator, min(0.98, kept + 0.1), int(generator.choice(SIZES)), **seeds))  # type: ignore[arg-type]
        edits = share_of(drawn(generator, kept, int(generator.choice(SIZES)), **seeds))  # type: ignore[arg-type]
        assert controls is not None
        assert edits is not None
        truth = min(0.98, kept + 0.1) - kept
        rule = GateRule(metric="excess_decay", at_most=truth)
        passed += judge(rule, *exact_difference_bounds(controls, edits)) is Verdict.PASS
    assert passed / DRAWS <= 0.05


def test_a_plain_percentile_bootstrap_would_not_cover() -> None:
    # The reason for the two facts more: 20 edits, 95 % of them kept, against 100 controls.
    generator = np.random.default_rng(7)
    plain = smoothed = 0
    draws = 300
    for _ in range(draws):
        edits, controls = drawn(generator, 0.95, 20), drawn(generator, 0.95, 100)
        samples = [share_sample(counts.successes, counts.trials) for counts in (controls, edits)]
        value = (controls.value or 0.0) - (edits.value or 0.0)
        interval = bootstrap_interval(difference_of_shares, samples, value)
        smoothed += interval.low <= 0 <= interval.high
        shares = [
            generator.binomial(len(c.facts), c.value or 0.0, 2000) / len(c.facts) for c in (controls, edits)
        ]
        low, high = np.quantile(shares[0] - shares[1], [0.025, 0.975])
        plain += low <= 0 <= high
    assert plain / draws < 0.85
    assert smoothed / draws > 0.93
