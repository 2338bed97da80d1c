"""What became of edits and controls under a stressor: the formulas of fine-tuning, over the stressed arms."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.worker.analysis.counts import FactCounts
from services.worker.analysis.fluency import fluency_metrics
from services.worker.analysis.gate import combine, decide
from services.worker.analysis.matching import matched_excess_decay
from services.worker.analysis.of_trials import outcome, retention_metric, reversion_metric, shares
from services.worker.analysis.retention import excess_decay, interaction, metric, retention
from services.worker.analysis.scoring_words import how_scored
from shared.measurement import HEADLINE_MODE, Arm, FactKind, Mode, ProbeKind
from shared.reports import Difference, Footprint, FurtherEditsMade, Metric, StressReport
from shared.states import StepStatus
from shared.stressors import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import StressFindings, Trial
    from shared.requests import GateRule

Measured = TypeVar("Measured", Metric, Difference)


def report_stress(found: StressFindings, gate: Sequence[GateRule]) -> StressReport:
    """Everything measured for one edited model under one stressor; failed trials add nothing."""
    trials = found.trials
    decisions = [decide(rule, trials) for rule in gate if rule.selects(found.configuration)]
    succeeded = bool(trials) and all(trial.status is StepStatus.SUCCEEDED for trial in trials)
    return StressReport(
        configuration=found.configuration,
        description=described(found.stressor),
        verdict=combine(decisions, every_trial_succeeded=succeeded) if decisions else None,
        decisions=decisions,
        trials=[outcome(trial) for trial in trials],
        shares=shares(trials),
        retention_edits=[of_stress(retention_metric(trials, FactKind.EDIT, mode)) for mode in Mode],
        retention_controls=[of_stress(retention_metric(trials, FactKind.CONTROL, mode)) for mode in Mode],
        excess_decay=[of_stress(excess_decay(trials, mode)) for mode in Mode],
        excess_decay_matched=[of_stress(matched_excess_decay(trials, mode)) for mode in Mode],
        reversion=of_stress(reversion_metric(trials, HEADLINE_MODE)),
        interaction=[of_stress(interaction(trials, mode)) for mode in Mode],
        footprint=mean_footprint(found),
        further_edits=further_edits(found),
        superseded=superseded(found.superseded, HEADLINE_MODE),
        fluency=fluency_metrics(trials),
    )


def of_stress(measured: Measured) -> Measured:
    """The same, its words about stressing instead of tuning."""
    said = measured.how.replace("tuned", "stressed").replace("tuning", "stressing")
    return measured.model_copy(update={"how": said})


def superseded(trials: Sequence[Trial], mode: Mode) -> Metric | None:
    """Of the first edits that further ones overwrite and that were right: those that no longer are."""
    if not trials:
        return None
    kept = retention(trials, FactKind.EDIT, mode)
    gone = FactCounts(kept.facts, kept.trials - kept.successes, kept.trials)
    found = metric(
        "superseded",
        gone,
        mode,
        arm=Arm.EDITED_STRESSED,
        fact_kind=FactKind.EDIT,
        probe_kind=ProbeKind.REWRITE,
    )
    told = (
        "Of the first edits that a further one overwrites, right in edited: those wrong in edited→stressed."
    )
    return found.model_copy(update={"how": f"{told} {how_scored(mode)}"})


def mean_footprint(found: StressFindings) -> Footprint | None:
    """How far the edited model's weights were moved, mean over its steps; None where that is not said."""
    if not found.footprints:
        return None
    count = len(found.footprints)
    return Footprint(
        changed_share=sum(part["changed_share"] for part in found.footprints) / count,
        distance=sum(part["distance"] for part in found.footprints) / count,
    )


def further_edits(found: StressFindings) -> FurtherEditsMade | None:
    """Further edits made and taken, summed over the seeds; None under another stressor."""
    if not found.further_edits:
        return None
    made, taken = (sum(part[name] for part in found.further_edits) for name in ("made", "taken"))
    return FurtherEditsMade(made=made, taken=taken)
