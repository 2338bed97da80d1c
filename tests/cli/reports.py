"""Reports as the service makes them, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.recipes import Freeze
from shared.reports import (
    ConfigurationReport,
    Difference,
    Interval,
    LossDifference,
    Metric,
    Mitigation,
    Provenance,
    Report,
    RuleDecision,
    StepProblem,
    TrialOutcome,
)
from shared.requests import Configuration, GateRule
from shared.states import Cause, StepStatus, Verdict

MODE = Mode.EXACT
SHARES = {
    (Arm.BASE, FactKind.EDIT): 0,
    (Arm.BASE_TUNED, FactKind.EDIT): 1,
    (Arm.EDITED, FactKind.EDIT): 45,
    (Arm.EDITED_TUNED, FactKind.EDIT): 31,
    (Arm.BASE, FactKind.CONTROL): 50,
    (Arm.BASE_TUNED, FactKind.CONTROL): 48,
    (Arm.EDITED, FactKind.CONTROL): 47,
    (Arm.EDITED_TUNED, FactKind.CONTROL): 44,
}


def interval(low: float, high: float) -> Interval:
    return Interval(low=low, high=high, level=0.95, method="wilson")


def share(name: str, numerator: int, denominator: int) -> Metric:
    value = numerator / denominator if denominator else None
    bounds = interval(value - 0.1, min(1.0, value + 0.1)) if value is not None else None
    return Metric(
        name=name, mode=MODE, numerator=numerator, denominator=denominator, value=value, interval=bounds
    )


def difference(name: str, value: float) -> Difference:
    return Difference(
        name=name,
        mode=MODE,
        value=value,
        interval=interval(value - 0.1, value + 0.1),
        edits=45,
        controls=47,
    )


def arm_shares() -> list[Metric]:
    """Every arm's shares, in other modes too, so that a table must pick."""
    return [
        Metric(
            name="share_right",
            mode=mode,
            arm=arm,
            fact_kind=fact_kind,
            probe_kind=ProbeKind.REWRITE,
            numerator=right if mode is MODE else 50,
            denominator=50,
            value=right / 50 if mode is MODE else 0.99,
            interval=None,
        )
        for mode in (Mode.FIRST_TOKEN, MODE)
        for (arm, fact_kind), right in SHARES.items()
    ]


def configuration(paraphrases: int = 0, freeze: Freeze = Freeze.NONE) -> Configuration:
    return Configuration(editor="memit", paraphrases=paraphrases, recipe="english", freeze=freeze)


def configuration_report(verdict: Verdict = Verdict.FAIL, paraphrases: int = 0) -> ConfigurationReport:
    rule = GateRule(metric="retention", at_least=0.8)
    return ConfigurationReport(
        configuration=configuration(paraphrases),
        verdict=verdict,
        decisions=[
            RuleDecision(rule=rule, verdict=verdict, estimate=0.69, bound=0.78, why="upper bound 78 %")
        ],
        trials=[
            TrialOutcome(
                seed=0,
                status=StepStatus.SUCCEEDED,
                step_id="s" * 32,
                held_out_loss_before=3.5,
                held_out_loss_after=2.25,
            )
        ],
        shares=arm_shares(),
        retention_edits=[share("retention", 31, 45)],
        retention_controls=[share("retention", 44, 47)],
        excess_decay=[difference("excess_decay", 0.25)],
        excess_decay_matched=[difference("excess_decay_matched", 0.2)],
        reversion=share("reversion", 5, 14),
        locality=[share("locality", 90, 100)],
        interaction=[],
        curve=[],
    )


def report(configurations: int = 1, verdict: Verdict = Verdict.FAIL) -> Report:
    """A report of `configurations` configurations, one mitigation and one failed step."""
    return Report(
        audit_id="a" * 32,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        verdict=verdict,
        why="The retention of memit's edits is below 80 %.",
        headline_mode=MODE,
        edits=50,
        controls=50,
        control_candidates=80,
        configurations=[configuration_report(verdict, number) for number in range(configurations)],
        mitigations=[
            Mitigation(
                configuration=configuration(3),
                against=configuration(),
                retention_gained=difference("retention_gained", 0.12),
                task_loss_cost=LossDifference(
                    name="task_loss_cost", value=0.034, interval=None, seeds=1, how="held-out loss"
                ),
                locality_cost=difference("locality_cost", 0.02),
                locality_cost_tuned=difference("locality_cost_tuned", 0.03),
                front=1,
                pareto=True,
                rank=1,
            )
        ],
        problems=[
            StepProblem(
                step_id="p" * 32,
                title="edit ft_l",
                status=StepStatus.FAILED,
                cause=Cause.MODEL,
                error="loss is not finite",
            )
        ],
        warnings=["few controls"],
        provenance=Provenance(
            holdfast_version="0.1.0",
            python_version="3.11.7",
            packages={},
            model="builtin:almanac",
            model_revision="f" * 64,
            dtype="float32",
            edit_set_hash="e" * 64,
            data_hashes={},
            seeds=[0, 1],
            device="cpu",
            platform="Linux",
            threads=2,
        ),
    )
