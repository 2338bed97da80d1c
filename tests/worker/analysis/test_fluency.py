"""Means over texts with their intervals, against scipy."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from scipy import stats

from services.worker.analysis.fluency import fluency_metrics, mean_with_interval
from services.worker.analysis.inputs import Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.measurement import Arm
from shared.reports import FluencySample
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, findings


def trial(seed: int, **arms: FluencySample) -> Trial:
    fluency = {Arm[name.upper()]: sample for name, sample in arms.items()}
    return Trial(PLAIN, seed, "step", StepStatus.SUCCEEDED, fluency=fluency)


BEFORE = FluencySample(entropies=[5.0, 6.0, 5.5], nats=[20.0, 60.0], tokens=[10, 20])
AFTER = FluencySample(entropies=[4.0, 2.0, 3.0], nats=[30.0, 90.0], tokens=[10, 20])


def test_means_are_over_texts_and_perplexity_over_tokens() -> None:
    metrics = {(m.name, m.arm): m for m in fluency_metrics([trial(0, base=BEFORE, edited_tuned=AFTER)])}
    assert metrics["n-gram entropy", Arm.BASE].value == pytest.approx(5.5)
    assert metrics["n-gram entropy", Arm.EDITED_TUNED].value == pytest.approx(3.0)
    perplexity = metrics["perplexity", Arm.EDITED_TUNED]
    assert perplexity.value == pytest.approx(exp(120 / 30))
    assert (perplexity.numerator, perplexity.denominator) == (120.0, 30)


def test_interval_of_a_plain_mean_is_the_t_interval() -> None:
    values = np.array([5.0, 6.0, 5.5, 4.0, 7.5])
    _, interval = mean_with_interval(values, np.ones(5))
    assert interval is not None
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_seeds_are_averaged_text_by_text() -> None:
    other = FluencySample(entropies=[6.0, 8.0, 4.5], nats=[20.0, 60.0], tokens=[10, 20])
    (metric, _) = fluency_metrics([trial(0, edited=BEFORE), trial(1, edited=other)])
    assert metric.value == pytest.approx(np.mean([5.5, 7.0, 5.0]))
    assert metric.denominator == 6
    assert metric.interval is not None
    assert metric.interval.high - metric.interval.low == pytest.approx(
        2 * stats.t.isf(0.025, 2) * stats.sem([5.5, 7.0, 5.0])
    )


def test_perplexity_beyond_all_measure_is_none() -> None:
    lost = FluencySample(entropies=[], nats=[1e9, 1e9], tokens=[1, 1])
    (metric,) = fluency_metrics([trial(0, edited=lost)])
    assert (metric.value, metric.interval) == (None, None)


def test_fluency_is_on_the_page_where_it_was_measured() -> None:
    page = render_page(build_report(findings([trial(0, base=BEFORE, edited=AFTER)])))
    assert "Writing and reading" in page
    assert "<b>5.50</b>" in page
    assert "Writing and reading" not in render_page(build_report(findings([trial(0)])))
