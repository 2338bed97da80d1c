"""Intervals hold what they promise, on answers drawn at random many times over (seeded)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from services.worker.analysis.associations import clustered_area, logit_interval
from services.worker.analysis.bootstrap import (
    Sample,
    bootstrap_interval,
    difference_of_shares,
    mean_change,
    paired_change_sample,
    paired_shares_sample,
    share_sample,
)
from services.worker.analysis.counts import FactCounts
from services.worker.analysis.gate import judge
from services.worker.analysis.intervals import (
    exact_bounds,
    exact_difference_bounds,
    share_of,
    wilson_interval,
)
from services.worker.analysis.kaplan_meier import survival_intervals
from services.worker.analysis.log_rank import hazard_ratio, log_rank
from services.worker.analysis.matching import match_controls
from shared.reports import Interval
from shared.requests import GateRule
from shared.states import Verdict
from tests.worker.analysis.tables import STEPS, drawn_table

DRAWS = 2000
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
        held += holds(wilson_interval(found), share)
    return held / DRAWS


def excess_decay_coverage(generator: np.random.Generator, **seeds: float) -> float:
    """Share of bootstrap intervals that hold the truth, over sizes and shares drawn at random."""
    held = 0
    for _ in range(DRAWS):
        truths = generator.uniform(0.5, 0.95, 2)
        sizes = generator.choice(SIZES[1:], 2)
        controls, edits = (
            drawn(generator, float(truth), int(size), **seeds)  # type: ignore[arg-type]
            for truth, size in zip(truths, sizes, strict=True)
        )
        assert controls.value is not None
        assert edits.value is not None
        samples = [share_sample(counts.successes, counts.trials) for counts in (controls, edits)]
        held += holds(interval_of(generator, samples, controls.value - edits.value), truths[0] - truths[1])
    return held / DRAWS


def matched_coverage(generator: np.random.Generator) -> float:
    """Of matched excess decay: relations differ in what is kept, and have unlike shares on the two sides."""
    held = 0
    for _ in range(DRAWS):
        kept, controls_kept = generator.uniform(0.5, 0.95, (2, 2))
        edits, controls = (30, 20), (25, 60)  # of either relation
        sides = [
            FactCounts(
                tuple(f"{side}:{index}" for index in range(sum(sizes))),
                generator.binomial(1, np.repeat(shares, sizes)).astype(float),
                np.ones(sum(sizes)),
            )
            for side, sizes, shares in (("edit", edits, kept), ("control", controls, controls_kept))
        ]
        relation: dict[str, str | None] = {
            fact: str(int(index >= sizes[0]))
            for counts, sizes in zip(sides, (edits, controls), strict=True)
            for index, fact in enumerate(counts.facts)
        }
        margin = {
            fact: float(value) for fact, value in zip(relation, generator.normal(size=135), strict=True)
        }
        match = match_controls(sides[0], sides[1], margin, relation)
        assert match is not None
        assert sides[0].value is not None
        used = match.weights > 0
        weighted = (match.weights * sides[1].successes)[used], (match.weights * sides[1].trials)[used]
        samples = [share_sample(*weighted), share_sample(sides[0].successes, sides[0].trials)]
        value = float(weighted[0].sum() / weighted[1].sum()) - sides[0].value
        truth = float(np.average(controls_kept, weights=edits) - np.average(kept, weights=edits))
        held += holds(interval_of(generator, samples, value, resamples=300), truth)
    return held / DRAWS


def gain_coverage(generator: np.random.Generator, seeds: int) -> float:
    """Of what a mitigation gains: the same facts on both sides, some of them not taken on one."""
    held = 0
    for _ in range(DRAWS):
        shares, facts = np.sort(generator.uniform(0.5, 0.95, 2)), int(generator.choice(SIZES[1:]))
        strength = generator.random(facts)  # what both sides share of a fact
        sides = []
        for share in shares:
            own = generator.random((facts, seeds)) < 0.5  # else the fact's strength decides
            kept = np.where(own, generator.random((facts, seeds)) < share, (strength < share)[:, None])
            taken = np.flatnonzero(generator.random(facts) < 0.9)
            ids = tuple(f"edit:{index:03}" for index in taken)
            sides.append(
                FactCounts(ids, kept[taken].sum(axis=1).astype(float), np.full(len(taken), float(seeds)))
            )
        plain, treated = sides
        assert plain.value is not None
        assert treated.value is not None
        samples = [paired_shares_sample(treated, plain)]
        held += holds(interval_of(generator, samples, treated.value - plain.value), shares[1] - shares[0])
    return held / DRAWS


def interaction_coverage(generator: np.random.Generator) -> float:
    """Of the difference in differences: a fact's change is −1, 0 or 1, mostly 0."""
    held = 0
    for _ in range(DRAWS):
        lost, won = generator.uniform(0.05, 0.3), generator.uniform(0.01, 0.1)
        facts = int(generator.choice(SIZES[2:]))
        changes = generator.choice([-1.0, 0.0, 1.0], facts, p=[lost, 1 - lost - won, won])
        samples = [paired_change_sample(changes, np.ones(facts))]
        seed = int(generator.integers(2**31))
        interval = bootstrap_interval(mean_change, samples, float(changes.mean()), seed=seed, resamples=500)
        held += holds(interval, won - lost)
    return held / DRAWS


def survival_coverage(generator: np.random.Generator, seeds: int, correlation: float) -> float:
    """Of survival bands, at a probed step drawn at random."""
    held = 0
    for _ in range(DRAWS):
        hazard, facts = float(generator.uniform(0.1, 1.2)), int(generator.choice(SIZES[1:]))
        table = drawn_table(generator, hazard, facts, seeds=seeds, correlation=correlation)
        place = int(generator.integers(len(STEPS)))
        truth = float(np.exp(-hazard * (place + 1) / len(STEPS)))
        held += holds(survival_intervals(table)[place], truth)
    return held / DRAWS


def hazard_ratio_coverage(generator: np.random.Generator, seeds: int, correlation: float) -> float:
    """Of hazard ratios, where both sides lost something and kept something."""
    held = measured = 0
    for _ in range(DRAWS):
        hazards = generator.uniform(0.3, 1.2, 2)
        sides = [
            drawn_table(
                generator,
                float(hazard),
                int(generator.choice(SIZES[2:])),
                seeds=seeds,
                correlation=correlation,
            )
            for hazard in hazards
        ]
        _, interval = hazard_ratio(*sides)
        if interval is not None:
            measured += 1
            held += holds(interval, hazards[0] / hazards[1])
    assert measured > 0.95 * DRAWS
    return held / measured


def association_coverage(generator: np.random.Generator, seeds: int) -> float:
    """Of areas under the curve: lost edits have values one standard deviation higher, in two strata."""
    held = 0
    truth = float(stats.norm.cdf(1 / np.sqrt(2)))
    for _ in range(DRAWS):
        edits = int(generator.choice((60, 100, 200)))
        lost = generator.random(edits) < 0.35
        values = generator.normal(size=edits) + lost
        clusters = np.tile(np.arange(edits), seeds)
        strata = np.repeat(np.arange(seeds), edits)
        area = clustered_area(np.tile(values, seeds), np.tile(lost, seeds), strata, clusters)
        assert area is not None
        interval = logit_interval(*area)
        held += interval is not None and holds(interval, truth)
    return held / DRAWS


def interval_of(
    generator: np.random.Generator, samples: Sequence[Sample], value: float, resamples: int = 500
) -> Interval:
    """The interval of a difference of shares; fewer resamples than the report's save time here."""
    seed = int(generator.integers(2**31))
    return bootstrap_interval(difference_of_shares, samples, value, seed=seed, resamples=resamples)


def holds(interval: Interval, truth: float) -> bool:
    return bool(interval.low <= truth <= interval.high)


def test_intervals_of_retention_cover_at_their_level() -> None:
    assert 0.93 <= retention_coverage(np.random.default_rng(1)) <= 0.97


def test_intervals_of_retention_cover_with_correlated_seeds() -> None:
    found = retention_coverage(np.random.default_rng(2), seeds=SEEDS, correlation=CORRELATION)
    assert 0.93 <= found <= 0.97


def test_intervals_of_excess_decay_cover_at_their_level() -> None:
    assert 0.93 <= excess_decay_coverage(np.random.default_rng(3)) <= 0.97


def test_intervals_of_excess_decay_cover_with_correlated_seeds() -> None:
    found = excess_decay_coverage(np.random.default_rng(4), seeds=SEEDS, correlation=CORRELATION)
    assert 0.93 <= found <= 0.97


def test_intervals_of_matched_excess_decay_cover_at_their_level() -> None:
    assert 0.93 <= matched_coverage(np.random.default_rng(8)) <= 0.97


@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_intervals_of_what_mitigations_gain_cover_at_their_level(seeds: int) -> None:
    assert 0.93 <= gain_coverage(np.random.default_rng(9), seeds) <= 0.97


def test_intervals_of_the_interaction_cover_at_their_level() -> None:
    assert 0.93 <= interaction_coverage(np.random.default_rng(10)) <= 0.97


@pytest.mark.parametrize(("seeds", "correlation"), [(1, 0.0), (SEEDS, CORRELATION)])
def test_survival_bands_cover_at_their_level(seeds: int, correlation: float) -> None:
    assert 0.93 <= survival_coverage(np.random.default_rng(11), seeds, correlation) <= 0.97


@pytest.mark.parametrize(("seeds", "correlation"), [(1, 0.0), (SEEDS, CORRELATION)])
def test_hazard_ratios_cover_at_their_level(seeds: int, correlation: float) -> None:
    assert 0.93 <= hazard_ratio_coverage(np.random.default_rng(12), seeds, correlation) <= 0.97


@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_areas_under_the_curve_cover_at_their_level(seeds: int) -> None:
    assert 0.93 <= association_coverage(np.random.default_rng(13), seeds) <= 0.97


@pytest.mark.parametrize(("seeds", "correlation"), [(1, 0.0), (SEEDS, CORRELATION)])
def test_log_rank_test_rejects_5_percent_of_what_is_true(seeds: int, correlation: float) -> None:
    generator = np.random.default_rng(14)
    rejected = 0
    for _ in range(DRAWS):
        hazard = float(generator.uniform(0.2, 1.2))
        sides = [
            drawn_table(
                generator, hazard, int(generator.choice(SIZES[1:])), seeds=seeds, correlation=correlation
            )
            for _ in range(2)
        ]
        found = log_rank(*sides)
        rejected += found is not None and found.p_value < 0.05
    assert 0.03 <= rejected / DRAWS <= 0.065


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
