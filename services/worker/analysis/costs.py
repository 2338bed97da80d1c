"""What one configuration gains and costs against another."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.bootstrap import bootstrap_interval, difference_of_shares, paired_shares_sample
from services.worker.analysis.intervals import LEVEL
from services.worker.analysis.retention import locality, retention, term
from services.worker.analysis.scoring_words import how_measured
from shared.measurement import Arm, FactKind, Mode
from shared.reports import Difference, Interval, LossDifference
from shared.reports.parts import PER_PAIR, PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.worker.analysis.counts import FactCounts
    from services.worker.analysis.inputs import Trial

SAME_MODEL = "none: the same edited model"
LOSS_UNITS = {
    PER_TOKEN: "nats per scored token",
    PER_PAIR: "nats per pair of answers, each relative to the configuration's own model before tuning",
}


def retention_gained(trials: Sequence[Trial], plain_trials: Sequence[Trial], mode: Mode) -> Difference:
    """Retention of edits − the sibling's, with a bootstrap that resamples facts, paired.

    Each side counts the edits that were right in its own model just before tuning.
    """
    treated, plain = (retention(side, FactKind.EDIT, mode) for side in (trials, plain_trials))
    return paired_difference(
        "retention_gained", mode, treated, plain, term_name="retention", arm=Arm.EDITED_TUNED
    )


def locality_cost(
    trials: Sequence[Trial], plain_trials: Sequence[Trial], mode: Mode, *, same_model: bool
) -> Difference:
    """Locality of the sibling's edited model − this one's, before tuning.

    same_model: both are the one application of the editor, which leaves nothing uncertain.
    """
    treated, plain = (locality(side, mode) for side in (trials, plain_trials))
    found = paired_difference("locality_cost", mode, plain, treated, term_name="locality", arm=Arm.EDITED)
    if not same_model or found.value is None:
        return found
    exact = Interval(low=found.value, high=found.value, level=LEVEL, method=SAME_MODEL)
    return found.model_copy(update={"interval": exact})


def locality_cost_tuned(trials: Sequence[Trial], plain_trials: Sequence[Trial], mode: Mode) -> Difference:
    """The same of the models as deployed, after tuning: what freezing spares shows here alone."""
    treated, plain = (locality(side, mode, Arm.EDITED_TUNED) for side in (trials, plain_trials))
    return paired_difference(
        "locality_cost_tuned", mode, plain, treated, term_name="locality", arm=Arm.EDITED_TUNED
    )


def paired_difference(
    name: str, mode: Mode, minuend: FactCounts, subtrahend: FactCounts, *, term_name: str, arm: Arm
) -> Difference:
    """One share − another over the same edits, with a bootstrap that resamples them with both."""
    value = interval = None
    if minuend.value is not None and subtrahend.value is not None:
        value = minuend.value - subtrahend.value
        interval = bootstrap_interval(
            difference_of_shares, [paired_shares_sample(minuend, subtrahend)], value
        )
    return Difference(
        name=name,
        mode=mode,
        value=value,
        interval=interval,
        edits=len({*minuend.facts, *subtrahend.facts}),
        controls=0,
        terms=[term(term_name, counts, arm, FactKind.EDIT) for counts in (minuend, subtrahend)],
        how=how_measured(name, mode),
    )


def task_loss_cost(trials: Sequence[Trial], plain_trials: Sequence[Trial]) -> LossDifference:
    """Held-out loss after tuning − the sibling's, mean over the seeds that both have.

    Both learn by one recipe, so that the losses have one unit. Per pair they are DPO's, each relative to the
    edited model that its tuning started from (Rafailov et al. 2023, eq. 7).
    """
    unit = next((trial.loss_unit for trial in trials), PER_TOKEN)
    losses, plain_losses = (
        {trial.seed: trial.held_out_loss_after for trial in side} for side in (trials, plain_trials)
    )
    costs = [
        loss - plain_loss
        for seed, loss in losses.items()
        if loss is not None and (plain_loss := plain_losses.get(seed)) is not None
    ]
    return LossDifference(
        name="task_loss_cost",
        value=float(np.mean(costs)) if costs else None,
        interval=mean_interval(costs),
        seeds=len(costs),
        how=(
            "Held-out loss of the tuning task after tuning − that of the configuration compared with, "
            f"{LOSS_UNITS[unit]}, paired by seed. The interval is over seeds, on the same records."
        ),
        unit=unit,
    )


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's t interval of a mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / sqrt(len(values))
    reach = float(stats.t.isf((1 - level) / 2, len(values) - 1)) * error
    return Interval(low=mean - reach, high=mean + reach, level=level, method="Student's t over seeds, paired")
