"""What reports say of the trials of one configuration, whatever was done to its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.retention import arms_after, metric, retention, reversion, share_right
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import Metric, TrialOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.inputs import Trial

PROBED = (
    *((FactKind.EDIT, kind) for kind in ProbeKind),
    (FactKind.CONTROL, ProbeKind.REWRITE),
    (FactKind.CONTROL, ProbeKind.DISTRACTED),
    (FactKind.CONTROL, ProbeKind.NEGATED),
)


def outcome(trial: Trial) -> TrialOutcome:
    """How one seed went."""
    return TrialOutcome(
        seed=trial.seed,
        status=trial.status,
        step_id=trial.step_id,
        error=trial.error,
        reused=trial.reused,
        held_out_loss_before=trial.held_out_loss_before,
        held_out_loss_after=trial.held_out_loss_after,
        held_out_loss_unit=trial.loss_unit,
        steps=trial.steps,
        base_steps=trial.base_steps,
    )


def shares(trials: Sequence[Trial]) -> list[Metric]:
    """Share right per kind of probe, mode and arm, where anything was scored."""
    found = []
    for fact_kind, probe_kind in PROBED:
        for mode in Mode:
            for arm in Arm:
                counts = share_right(trials, arm, fact_kind, probe_kind, mode)
                if counts.facts:
                    found.append(
                        metric(
                            "share_right", counts, mode, arm=arm, fact_kind=fact_kind, probe_kind=probe_kind
                        )
                    )
    return found


def retention_metric(trials: Sequence[Trial], fact_kind: FactKind, mode: Mode) -> Metric:
    """Retention after what was done to the edited model, at its end."""
    counts = retention(trials, fact_kind, mode)
    return metric(
        "retention",
        counts,
        mode,
        arm=arms_after(trials).edited,
        fact_kind=fact_kind,
        probe_kind=ProbeKind.REWRITE,
    )


def reversion_metric(trials: Sequence[Trial], mode: Mode) -> Metric:
    """Reversion of the edits that were lost."""
    return metric(
        "reversion",
        reversion(trials, mode),
        mode,
        arm=arms_after(trials).edited,
        fact_kind=FactKind.EDIT,
        probe_kind=ProbeKind.REWRITE,
    )
