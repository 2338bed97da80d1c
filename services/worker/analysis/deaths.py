"""Which edits a configuration lost: when, to what, and what is known of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.lifetimes import trial_lifetimes
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import Loss, LostEdit, WeightDrift, WentTo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.worker.analysis.inputs import EditFeatures, ProbeKey, Trial
    from shared.measurement import ProbeScore

MOST_LISTED = 1_000  # edits lost by one configuration; of the others only the number is reported


def lost_edits(
    trials: Sequence[Trial], mode: Mode, features: Mapping[str, EditFeatures], recipe: str
) -> list[LostEdit]:
    """Every edit that was lost under some seed: most often first, then earliest.

    features: by fact id; recipe: the one whose data the edits' words were looked for in.
    """
    right_before: dict[str, int] = defaultdict(int)
    losses: dict[str, list[Loss]] = defaultdict(list)
    margins: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        before = trial.scores(Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE)
        for key, lived in trial_lifetimes(trial, FactKind.EDIT, mode).items():
            right_before[key[0]] += 1
            if (margin := margin_of(before[key])) is not None:
                margins[key[0]].append(margin)
            if lived.lost_at is not None:
                losses[key[0]].append(loss(trial, mode, key, lived.right_until, lived.lost_at))
    found = [
        LostEdit(
            index=features[fact].index,
            trials=right_before[fact],
            margin_before=float(np.mean(margins[fact])) if margins[fact] else None,
            mentions=features[fact].mentions.get(recipe),
            losses=lost,
        )
        for fact, lost in losses.items()
        if fact in features
    ]
    return sorted(found, key=risk)


def risk(edit: LostEdit) -> tuple[float, float, int]:
    """Sorts edits by the share of trials in which they were lost, the highest first, then by how early."""
    return (
        -len(edit.losses) / edit.trials,
        float(np.median([lost.wrong_at for lost in edit.losses])),
        edit.index,
    )


def loss(trial: Trial, mode: Mode, key: ProbeKey, right_until: int, wrong_at: int) -> Loss:
    """One edit's loss in one trial."""
    then = trial.scores(Arm.EDITED_TUNED, FactKind.EDIT, ProbeKind.REWRITE, wrong_at)[key]
    at_end = trial.scores(Arm.EDITED_TUNED, FactKind.EDIT, ProbeKind.REWRITE).get(key, then)
    return Loss(
        seed=trial.seed,
        right_until=right_until,
        wrong_at=wrong_at,
        went_to=WentTo.TARGET_TRUE if then.alternative_exact else WentTo.OTHER,
        answer=then.predicted_answer or then.predicted_token,
        right_at_end=bool(at_end.right(mode)),
    )


def margin_of(score: ProbeScore) -> float | None:
    """log p(target_new) − log p(target_true), in nats; None without a target_true."""
    other = score.log_prob_alternative
    return None if other is None else score.log_prob_answer - other


def mean_drift(trials: Sequence[Trial]) -> list[WeightDrift]:
    """What tuning did to the matrices that the editor wrote, mean over the seeds that measured it."""
    by_name: dict[str, list[WeightDrift]] = defaultdict(list)
    for trial in trials:
        for drift in trial.drift:
            by_name[drift.parameter].append(drift)
    return [
        found[0].model_copy(
            update={
                "seeds": len(found),
                "tuning_norm": float(np.mean([drift.tuning_norm for drift in found])),
                **{name: mean_known([getattr(drift, name) for drift in found]) for name in DIRECTIONS},
            }
        )
        for found in by_name.values()
    ]


DIRECTIONS = ("cosine", "energy_left", "energy_right", "energy_inside")


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of what was measured; None of nothing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
