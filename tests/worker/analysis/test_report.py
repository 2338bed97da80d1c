"""A report is built from whatever was measured, and names what was not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from services.worker.analysis.report import build_report
from shared.measurement import TUNED, Arm, FactKind, Mode, ProbeKind
from shared.reports import Difference, Metric, Report, ReportPart
from shared.requests import GateRule
from shared.states import StepStatus, Verdict
from tests.worker.analysis.synthetic import PLAIN, failed_trial, findings, rows, synthetic_audit, trial
from tests.worker.analysis.test_gate import kept


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(synthetic_audit())


def test_every_configuration_is_reported_in_the_order_of_the_request(report: Report) -> None:
    assert [part.configuration for part in report.configurations] == list(synthetic_audit().configurations)


def test_the_same_findings_give_the_same_report(report: Report) -> None:
    assert build_report(synthetic_audit()) == report


def test_a_report_survives_the_way_through_json(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_failed_trial_is_listed_with_its_error(report: Report) -> None:
    trials = report.configurations[-1].trials
    assert [(outcome.seed, outcome.status) for outcome in trials][-1] == (2, StepStatus.FAILED)
    assert trials[-1].error == "CUDA out of memory"
    assert report.configurations[-1].retention_edits[0].denominator > 0


def test_one_metric_per_mode(report: Report) -> None:
    part = report.configurations[0]
    for metrics in (part.retention_edits, part.retention_controls, part.excess_decay, part.locality):
        assert [metric.mode for metric in metrics] == list(Mode)


def test_shares_cover_the_four_arms(report: Report) -> None:
    controls = [
        share.arm
        for share in report.configurations[0].shares
        if (share.fact_kind, share.probe_kind, share.mode)
        == (FactKind.CONTROL, ProbeKind.REWRITE, Mode.EXACT)
    ]
    assert controls == list(TUNED.arms)


def test_the_end_of_the_curve_is_the_retention(report: Report) -> None:
    for part in report.configurations:
        exact = next(metric for metric in part.retention_edits if metric.mode is Mode.EXACT)
        assert part.curve[-1].edits.value == exact.value


def parts_of(value: object, kind: type[ReportPart]) -> Iterator[ReportPart]:
    """Every part of a kind anywhere in a report."""
    if isinstance(value, kind):
        yield value
    if isinstance(value, ReportPart):
        for name in type(value).model_fields:
            yield from parts_of(getattr(value, name), kind)
    elif isinstance(value, list):
        for part in value:
            yield from parts_of(part, kind)


def test_every_metric_says_where_of_what_and_how_it_was_scored(report: Report) -> None:
    metrics = list(parts_of(report, Metric))
    assert len(metrics) > 100
    for metric in metrics:
        assert isinstance(metric, Metric)
        assert metric.how, metric
        assert metric.arm is not None, metric
        assert metric.fact_kind is not None, metric
        assert metric.probe_kind is not None, metric
        assert (metric.interval is None) == (metric.denominator == 0)


def test_every_difference_says_of_which_shares_and_how_they_were_scored(report: Report) -> None:
    differences = list(parts_of(report, Difference))
    assert len(differences) > 50
    for difference in differences:
        assert isinstance(difference, Difference)
        assert difference.how, difference
        assert (difference.interval is None) == (difference.value is None)
        if difference.value is not None:
            shares = [term.numerator / term.denominator for term in difference.terms]
            signs = {2: (1, -1), 4: (1, -1, -1, 1)}[len(shares)]
            found = sum(sign * share for sign, share in zip(signs, shares, strict=True))
            assert difference.value == pytest.approx(found)


def test_a_lost_trial_withholds_the_pass_and_is_why() -> None:
    trials = [trial(kept(60, 60), kept(60, 60)), failed_trial(1)]
    found = build_report(findings(trials))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.why == "1 of 2 planned trials did not succeed."


def test_a_pass_counts_decisions_and_trials() -> None:
    found = build_report(findings([trial(kept(60, 60), kept(60, 60))]))
    assert found.verdict is Verdict.PASS
    assert found.why == (
        "Every gate decision passed at its one-sided 95 % bound (2 of 2), "
        "and every planned trial succeeded (1 of 1)."
    )


def test_a_fail_quotes_the_first_failed_decision() -> None:
    found = build_report(findings([trial(kept(10, 60), kept(60, 60))]))
    assert found.verdict is Verdict.FAIL
    assert found.why.startswith(
        f"2 of 2 gate decisions failed. {PLAIN}: retention of edits (exact) is 16.7 %"
    )


def test_a_configuration_that_no_rule_speaks_of_has_no_verdict() -> None:
    rule = GateRule(metric="retention", at_least=0.8, editor="rome")
    found = build_report(findings([trial(kept(60, 60), kept(60, 60))], gate=[rule]))
    assert found.configurations[0].verdict is None


def test_controls_that_were_more_certain_than_the_edits_are_warned_of() -> None:
    arms = {}
    for arm, step in ((Arm.EDITED, 0), (Arm.EDITED_TUNED, 9)):
        arms[arm] = rows(
            arm, FactKind.EDIT, [True] * 4, tuning_step=step, margins=[1.0, 2.0, 3.0, 2.0]
        ) + rows(arm, FactKind.CONTROL, [True] * 4, tuning_step=step, margins=[8.0] * 4)
    planned = trial(([], []), ([], []))
    found = build_report(findings([type(planned)(PLAIN, 0, "tune", StepStatus.SUCCEEDED, arms=arms)]))
    assert found.warnings == [
        f"{PLAIN.editor} · k=0: the matched controls were more certain before tuning than the edits, "
        "by 6.00 nats on average; matching did not remove the difference."
    ]


def test_an_audit_in_which_nothing_ran_still_has_a_report() -> None:
    found = build_report(findings([failed_trial(0), failed_trial(1)]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.created_at == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert found.configurations[0].curve == []
