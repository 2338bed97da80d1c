"""What goes with the loss of edits: areas under ROC curves, with intervals clustered by edit."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from services.worker.analysis.deaths import margin_of
from services.worker.analysis.intervals import LEVEL
from services.worker.analysis.lifetimes import trial_lifetimes
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import Association, Interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.inputs import AuditFindings, EditFeatures
    from shared.measurement import ProbeScore

    Array = NDArray[np.float64]

FEWEST_EDITS = 5  # lost and kept each, for a feature to be looked at
METHOD = "logit, clustered by edit"
HOW = (
    "Within each configuration every trial of an edit that was lost is compared with every trial of one that "
    "was kept (at no probe wrong); pairs are pooled over configurations; the interval is clustered by edit."
)


@dataclass(frozen=True)
class Case:
    """One edit in one trial: its configuration, what was known of it just before, and whether it was lost."""

    stratum: int
    edit: str
    values: Mapping[str, float | None]
    lost: bool


def associations(findings: AuditFindings, mode: Mode) -> list[Association]:
    """Every feature that differs among edits, the one that tells most first."""
    observed = list(cases(findings, mode))
    names = list(dict.fromkeys(name for case in observed for name in case.values))
    found = [association(name, observed) for name in names]
    return sorted((part for part in found if part), key=lambda part: -abs(part.auc - 0.5))


def cases(findings: AuditFindings, mode: Mode) -> Iterator[Case]:
    """Every edit of every trial that was right just before tuning and probed after it."""
    for stratum, configuration in enumerate(findings.configurations):
        for trial in findings.trials_of(configuration):
            before = trial.scores(Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE)
            for key, lived in trial_lifetimes(trial, FactKind.EDIT, mode).items():
                if known := findings.features.get(key[0]):
                    values = values_of(before[key], known, configuration.recipe)
                    yield Case(stratum, key[0], values, lived.lost_at is not None)


def values_of(score: ProbeScore, known: EditFeatures, recipe: str) -> dict[str, float | None]:
    """What may go with loss; None where it was not measured."""
    mentions = known.mentions.get(recipe)
    return {
        "margin_before": margin_of(score),
        "log_prob_before": score.log_prob_answer,
        "target_tokens": known.target_tokens,
        "target_new_in_data": mentions.target_new if mentions else None,
        "target_true_in_data": mentions.target_true if mentions else None,
        "subject_in_data": mentions.subject if mentions else None,
    }


def association(feature: str, observed: Sequence[Case]) -> Association | None:
    """How far one feature tells lost edits from kept ones; None where there is too little to compare."""
    usable = [(case, value) for case in observed if (value := case.values.get(feature)) is not None]
    lost_edits, kept_edits = (
        {case.edit for case, _ in usable if case.lost is lost} for lost in (True, False)
    )
    if min(len(lost_edits), len(kept_edits)) < FEWEST_EDITS or len({value for _, value in usable}) < 2:
        return None
    lost = np.array([case.lost for case, _ in usable])
    area = clustered_area(
        np.array([value for _, value in usable], dtype=np.float64),
        lost,
        np.array([case.stratum for case, _ in usable]),
        np.unique([case.edit for case, _ in usable], return_inverse=True)[1],
    )
    if area is None:
        return None
    auc, variance = area
    return Association(
        feature=feature,
        auc=auc,
        interval=logit_interval(auc, variance),
        lost=int(lost.sum()),
        kept=int((~lost).sum()),
        edits=len(lost_edits | kept_edits),
        how=HOW,
    )


def clustered_area(
    values: Array, lost: NDArray[np.bool_], strata: NDArray[np.intp], clusters: NDArray[np.intp]
) -> tuple[float, float] | None:
    """Area under the ROC curve and its variance; None where no stratum has both lost and kept.

    The area is the share of pairs (one lost, one kept, of the same stratum) in which the lost one's value is
    higher, ties counted half. Its variance is that of the sum of each cluster's influences, as in DeLong et
    al. (1988) for single cases and Obuchowski (1997) for clusters. values, lost, strata, clusters: (cases,).
    """
    wins, opponents = np.zeros(len(values)), np.zeros(len(values))
    for stratum in np.unique(strata):
        here = strata == stratum
        up, down = np.flatnonzero(here & lost), np.flatnonzero(here & ~lost)
        wins[up] = ranks_above(values[up], values[down])
        wins[down] = len(up) - ranks_above(values[down], values[up])
        opponents[up], opponents[down] = len(down), len(up)
    pairs = opponents[lost].sum()
    if not pairs:
        return None
    area = float(wins[lost].sum() / pairs)
    influences = np.bincount(clusters, (wins - area * opponents) / pairs)
    count = len(np.unique(clusters))
    return area, count / (count - 1) * float((influences**2).sum())


def ranks_above(values: Array, others: Array) -> Array:
    """How many of `others` each value is above, ties counted half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    found: Array = (below + up_to) / 2
    return found


def logit_interval(area: float, variance: float, level: float = LEVEL) -> Interval | None:
    """Two-sided interval on the logit scale (Pepe 2003, section 5.2.4); None at 0 and 1."""
    if not 0 < area < 1 or variance <= 0:
        return None
    reach = float(stats.norm.isf((1 - level) / 2)) * sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + exp(-(log(area / (1 - area)) + sign * reach))) for sign in (-1, 1))
    return Interval(low=low, high=high, level=level, method=METHOD)
