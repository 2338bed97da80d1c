"""From the findings of an audit to its report. Pure: the same findings give the same report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.associations import associations
from services.worker.analysis.curves import retention_curve
from services.worker.analysis.deaths import MOST_LISTED, lost_edits, mean_drift
from services.worker.analysis.endings import ending_warnings
from services.worker.analysis.fluency import fluency_metrics
from services.worker.analysis.gate import combine, decide
from services.worker.analysis.matching import margins, match_controls, matched_excess_decay, relations
from services.worker.analysis.mitigations import rank_mitigations
from services.worker.analysis.of_trials import outcome, retention_metric, reversion_metric, shares
from services.worker.analysis.protocols import protocol_metrics
from services.worker.analysis.retention import excess_decay, interaction, locality, metric, retention
from services.worker.analysis.risks import riskiest
from services.worker.analysis.stress import report_stress
from services.worker.analysis.survival import survival
from shared.measurement import HEADLINE_MODE, Arm, FactKind, Mode, ProbeKind
from shared.reports import ConfigurationReport, LostEdit, Metric, Report, RuleDecision, StressReport
from shared.states import StepStatus, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import AuditFindings, Trial
    from shared.requests import Configuration, GateRule, StressConfiguration

# A gap between matched sides of more than a quarter of a standard deviation is not negligible
# (Imbens & Rubin 2015, section 14.2).
MAX_STANDARDISED_GAP = 0.25


def build_report(findings: AuditFindings) -> Report:
    """Pool the seeds of every configuration, judge them by the gate, and rank the mitigations."""
    warnings = list(findings.warnings)
    configurations = []
    for configuration in findings.configurations:
        trials = findings.trials_of(configuration)
        lost = lost_edits(trials, HEADLINE_MODE, findings.features, configuration.recipe)
        configurations.append(report_configuration(configuration, trials, findings.gate, lost))
        warnings += configuration_warnings(configuration, trials)
    warnings += ending_warnings(findings)
    stress = [report_stress(found, findings.gate) for found in findings.stress]
    judged: list[ConfigurationReport | StressReport] = [*configurations, *stress]
    decisions = [decision for part in judged for decision in part.decisions]
    verdict = combine(decisions, every_trial_succeeded=findings.all_trials_succeeded)
    return Report(
        audit_id=findings.audit_id,
        created_at=findings.created_at,
        verdict=verdict,
        why=explain(verdict, judged, findings.every_trial),
        headline_mode=HEADLINE_MODE,
        edits=findings.edits,
        controls=findings.controls,
        control_candidates=findings.control_candidates,
        configurations=configurations,
        stress=stress,
        mitigations=rank_mitigations(findings, HEADLINE_MODE),
        riskiest=riskiest(findings, HEADLINE_MODE),
        lost_with=associations(findings, HEADLINE_MODE),
        overlap=list(findings.overlap),
        editing=list(findings.editing),
        tracing=findings.tracing,
        key_statistics=list(findings.key_statistics),
        problems=list(findings.problems),
        warnings=list(dict.fromkeys(warnings)),
        provenance=findings.provenance,
    )


def report_configuration(
    configuration: Configuration,
    trials: Sequence[Trial],
    gate: Sequence[GateRule],
    lost: Sequence[LostEdit],
) -> ConfigurationReport:
    """Everything measured for one configuration; failed trials are listed and add nothing."""
    decisions = [decide(rule, trials) for rule in gate if rule.selects(configuration)]
    succeeded = bool(trials) and all(trial.status is StepStatus.SUCCEEDED for trial in trials)
    return ConfigurationReport(
        configuration=configuration,
        verdict=combine(decisions, every_trial_succeeded=succeeded) if decisions else None,
        decisions=decisions,
        trials=[outcome(trial) for trial in trials],
        shares=shares(trials),
        retention_edits=[retention_metric(trials, FactKind.EDIT, mode) for mode in Mode],
        retention_controls=[retention_metric(trials, FactKind.CONTROL, mode) for mode in Mode],
        excess_decay=[excess_decay(trials, mode) for mode in Mode],
        excess_decay_matched=[matched_excess_decay(trials, mode) for mode in Mode],
        reversion=reversion_metric(trials, HEADLINE_MODE),
        locality=[locality_metric(trials, mode) for mode in Mode],
        interaction=[interaction(trials, mode) for mode in Mode],
        curve=retention_curve(trials, HEADLINE_MODE),
        fluency=fluency_metrics(trials),
        protocols=protocol_metrics(trials),
        survival=survival(trials, HEADLINE_MODE),
        lost_edits=list(lost[:MOST_LISTED]),
        lost_edits_left_out=len(lost[MOST_LISTED:]),
        drift=mean_drift(trials),
    )


def locality_metric(trials: Sequence[Trial], mode: Mode) -> Metric:
    """Locality of the edit, before any tuning."""
    return metric(
        "locality",
        locality(trials, mode),
        mode,
        arm=Arm.EDITED,
        fact_kind=FactKind.EDIT,
        probe_kind=ProbeKind.NEIGHBORHOOD,
    )


def configuration_warnings(configuration: Configuration, trials: Sequence[Trial]) -> list[str]:
    """What a reader must know to trust the headline of one configuration.

    It is about the moment before tuning, so configurations that differ in the recipe say the same.
    """
    edits, controls = (retention(trials, kind, HEADLINE_MODE) for kind in (FactKind.EDIT, FactKind.CONTROL))
    match = match_controls(edits, controls, margins(trials), relations(trials))
    if match is None or abs(match.margin_gap) <= MAX_STANDARDISED_GAP * match.margin_spread:
        return []
    side = "more" if match.margin_gap > 0 else "less"
    return [
        f"{configuration.editor} · k={configuration.paraphrases}: the matched controls were {side} certain "
        f"before tuning than the edits, by {abs(match.margin_gap):.2f} nats on average; matching did not "
        "remove the difference."
    ]


def explain(
    verdict: Verdict, configurations: Sequence[ConfigurationReport | StressReport], trials: Sequence[Trial]
) -> str:
    """The overall verdict as plain English, with the decision or the trials that it hangs on."""
    decided = [(part.configuration, decision) for part in configurations for decision in part.decisions]
    missing = sum(trial.status is not StepStatus.SUCCEEDED for trial in trials)
    if verdict is Verdict.PASS:
        return (
            f"Every gate decision passed at its one-sided 95 % bound ({len(decided)} of {len(decided)}), "
            f"and every planned trial succeeded ({len(trials)} of {len(trials)})."
        )
    hanging = [
        (configuration, decision) for configuration, decision in decided if decision.verdict is verdict
    ]
    told = []
    if hanging:
        state = "failed" if verdict is Verdict.FAIL else "inconclusive"
        told.append(
            f"{len(hanging)} of {count(len(decided), 'gate decision')} {state}. {quoted(*hanging[0])}"
        )
    if missing:
        told.append(f"{missing} of {count(len(trials), 'planned trial')} did not succeed.")
    return " ".join(told) or "Nothing was judged."


def quoted(configuration: Configuration | StressConfiguration, decision: RuleDecision) -> str:
    return f"{configuration}: {decision.why[0].lower()}{decision.why[1:]}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
