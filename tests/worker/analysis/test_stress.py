"""The formulas of fine-tuning over the stressed arms, and what the page shows of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.worker.analysis.inputs import AuditFindings, StressFindings, Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.gate import GateRule, StressConfiguration
from shared.measurement import HEADLINE_MODE, STRESSED, Arm, FactKind
from shared.reports import StressReport
from shared.states import StepStatus, Verdict
from shared.stressors import FurtherEdits, Int4
from tests.worker.analysis.synthetic import findings, rows, trial

CONFIGURATION = StressConfiguration(editor="memit", paraphrases=0, stressor="int4")
YES, NO = True, False


def stress_trial(
    edits: tuple[list[bool], list[bool]],
    controls: tuple[list[bool], list[bool]],
    base: tuple[list[bool], list[bool]] | None = None,
) -> Trial:
    """Answers just before and after stressing, of edits and of controls; base: of controls alone."""
    arms = {
        Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, edits[0])
        + rows(Arm.EDITED, FactKind.CONTROL, controls[0]),
        Arm.EDITED_STRESSED: rows(Arm.EDITED_STRESSED, FactKind.EDIT, edits[1])
        + rows(Arm.EDITED_STRESSED, FactKind.CONTROL, controls[1]),
    }
    if base is not None:
        arms[Arm.BASE] = rows(Arm.BASE, FactKind.CONTROL, base[0])
        arms[Arm.BASE_STRESSED] = rows(Arm.BASE_STRESSED, FactKind.CONTROL, base[1])
    return Trial(CONFIGURATION, 0, "stress-0", StepStatus.SUCCEEDED, arms=arms, after=STRESSED)


def audit(found: StressFindings, *tuned: Trial, gate: tuple[GateRule, ...] = ()) -> AuditFindings:
    return replace(findings(list(tuned)), stress=[found], **({"gate": gate} if gate else {}))


def reported(found: StressFindings) -> StressReport:
    (part,) = build_report(audit(found)).stress
    return part


def test_retention_excess_decay_and_interaction_are_over_the_stressed_arms() -> None:
    found = stress_trial(
        edits=([YES, YES, YES, YES, NO], [YES, NO, NO, NO, YES]),
        controls=([YES, YES, YES, NO], [YES, YES, NO, NO]),
        base=([YES, YES, YES, YES], [YES, YES, YES, NO]),
    )
    part = reported(StressFindings(CONFIGURATION, Int4(), [found]))
    edits, controls, decay, interaction = (
        next(measured for measured in series if measured.mode is HEADLINE_MODE)
        for series in (part.retention_edits, part.retention_controls, part.excess_decay, part.interaction)
    )
    assert (edits.numerator, edits.denominator, edits.arm) == (1, 4, Arm.EDITED_STRESSED)
    assert (controls.numerator, controls.denominator) == (2, 3)
    assert decay.value == pytest.approx(2 / 3 - 1 / 4)
    # edited: 3 right of 4 become 2; base: 4 become 3, fact by fact 0, 0, −1 and +1 to be told apart
    assert interaction.value == pytest.approx((-1 / 4) - (-1 / 4))
    assert {term.arm for term in interaction.terms} == set(STRESSED.arms)
    assert "tun" not in edits.how + decay.how + interaction.how


def test_overwritten_first_edits_are_counted_as_gone_and_nowhere_else() -> None:
    kept = stress_trial(edits=([YES, YES], [YES, YES]), controls=([YES], [YES]))
    overwritten = stress_trial(edits=([YES, YES, NO], [NO, YES, NO]), controls=([], []))
    part = reported(
        StressFindings(
            CONFIGURATION,
            FurtherEdits(which="conflicting"),
            [kept],
            superseded=[overwritten],
            further_edits=[{"made": 3, "taken": 2}],
        )
    )
    assert part.superseded is not None
    assert (part.superseded.numerator, part.superseded.denominator) == (1, 2)
    assert part.further_edits is not None
    assert (part.further_edits.made, part.further_edits.taken) == (3, 2)
    assert part.retention_edits[0].value == 1


def test_rule_of_a_stressor_judges_it_alone_and_counts_for_the_verdict() -> None:
    tuned = trial(edits=([YES] * 60, [YES] * 60), controls=([YES] * 60, [YES] * 60))
    lost = stress_trial(edits=([YES] * 60, [NO] * 60), controls=([YES] * 60, [YES] * 60))
    found = StressFindings(CONFIGURATION, Int4(), [lost])
    of_tuning = GateRule(metric="retention", at_least=0.8)
    of_stress = GateRule(metric="retention", at_least=0.8, stressor="*")
    passed = build_report(audit(found, tuned, gate=(of_tuning,)))
    assert (passed.verdict, passed.stress[0].verdict) == (Verdict.PASS, None)
    failed = build_report(audit(found, tuned, gate=(of_tuning, of_stress)))
    assert (failed.verdict, failed.stress[0].verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert failed.configurations[0].verdict is Verdict.PASS
    assert failed.why.startswith("1 of 2 gate decisions failed. memit · k=0 · int4: retention of edits")


def test_stressor_that_was_not_measured_keeps_the_audit_from_passing() -> None:
    tuned = trial(edits=([YES] * 60, [YES] * 60), controls=([YES] * 60, [YES] * 60))
    broken = Trial(CONFIGURATION, 0, "stress-0", StepStatus.FAILED, error="no memory", after=STRESSED)
    report = build_report(
        audit(
            StressFindings(CONFIGURATION, Int4(), [broken]),
            tuned,
            gate=(GateRule(metric="retention", at_least=0.5),),
        )
    )
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "1 of 2 planned trials did not succeed" in report.why


def test_page_of_stressors_alone_has_their_table_and_no_other() -> None:
    found = stress_trial(edits=([YES] * 9, [YES] * 6 + [NO] * 3), controls=([YES] * 9, [YES] * 9))
    footprint = {"changed_share": 0.99, "distance": 0.0123}
    page = render_page(
        build_report(audit(StressFindings(CONFIGURATION, Int4(), [found], footprints=[footprint])))
    )
    assert 'id="stressors"' in page
    assert 'id="overview"' not in page
    for text in (
        "memit · k=0 · int4",
        "1.2 %",
        "66.7 %",
        "groups of 128",
        'aria-label="Retention of edits and',
    ):
        assert text in page
