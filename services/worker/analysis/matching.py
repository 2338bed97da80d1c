"""Excess decay between edits and controls that were alike before tuning.

Edits are often stronger or weaker than what a model learned by itself, and of other relations. Here each
edit is compared with the controls of its own relation whose log-probability margin, just before tuning,
was nearest to its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.bootstrap import bootstrap_interval, difference_of_shares, share_sample
from services.worker.analysis.retention import arms_after, retention, term
from services.worker.analysis.scoring_words import how_measured
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.reports import Difference, Term

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.counts import FactCounts
    from services.worker.analysis.inputs import Scores, Trial

NEIGHBOURS = 3  # one alone is noisy; more are less alike (Rosenbaum 2010, ch. 8)


@dataclass(frozen=True)
class Match:
    """How much each control stands for the edits, and how alike the two sides are.

    weights: (controls,) float64, in the order of the controls' counts; sums to the edits' trials.
    margin_gap: weighted mean margin of the controls − that of the edits, in nats.
    margin_spread: standard deviation of the edits' margins, in nats.
    """

    weights: NDArray[np.float64]
    margin_gap: float
    margin_spread: float


def matched_excess_decay(trials: Sequence[Trial], mode: Mode) -> Difference:
    """Retention of the matched controls − retention of edits, with a bootstrap interval.

    The bootstrap resamples edits and controls, the match held fixed, as is usual for weights that were
    chosen without looking at the outcome.
    """
    edits = retention(trials, FactKind.EDIT, mode)
    controls = retention(trials, FactKind.CONTROL, mode)
    match = match_controls(edits, controls, margins(trials), relations(trials))
    value = interval = None
    matched, terms = 0, []
    if match is not None and edits.value is not None:
        used = match.weights > 0
        matched = int(used.sum())
        successes = (match.weights * controls.successes)[used]
        counted = (match.weights * controls.trials)[used]
        value = float(successes.sum() / counted.sum()) - edits.value
        samples = [share_sample(successes, counted), share_sample(edits.successes, edits.trials)]
        interval = bootstrap_interval(difference_of_shares, samples, value)
        weighted = Term(
            name="retention",
            arm=arms_after(trials).edited,
            fact_kind=FactKind.CONTROL,
            numerator=float(successes.sum()),
            denominator=float(counted.sum()),
        )
        terms = [weighted, term("retention", edits, arms_after(trials).edited, FactKind.EDIT)]
    return Difference(
        name="excess_decay_matched",
        mode=mode,
        value=value,
        interval=interval,
        edits=len(edits.facts),
        controls=matched,
        terms=terms,
        how=how_measured("excess_decay_matched", mode),
    )


def match_controls(
    edits: FactCounts,
    controls: FactCounts,
    margin: Mapping[str, float],
    relation: Mapping[str, str | None],
) -> Match | None:
    """Match every edit, with replacement, to its nearest controls; None where either side is empty.

    Each edit spreads its trials evenly over the 3 controls of its relation (of any relation where there
    is none of its own) whose margins are nearest; ties go by id. An edit without a relation is compared
    with all controls.
    """
    if not edits.facts or not controls.facts:
        return None
    control_margins = np.array([margin[fact] for fact in controls.facts])
    by_relation: dict[str, list[int]] = {}
    for index, fact in enumerate(controls.facts):
        name = relation.get(fact)
        if name is not None:
            by_relation.setdefault(name, []).append(index)
    everyone = np.arange(len(controls.facts))
    weights = np.zeros(len(controls.facts))
    for fact, trials in zip(edits.facts, edits.trials, strict=True):
        alike = by_relation.get(relation.get(fact) or "")
        candidates = np.array(alike) if alike else everyone
        distances = np.abs(control_margins[candidates] - margin[fact])
        nearest = candidates[np.argsort(distances, kind="stable")[:NEIGHBOURS]]
        weights[nearest] += trials / len(nearest)
    edit_margins = np.array([margin[fact] for fact in edits.facts])
    gap = np.average(control_margins, weights=weights) - np.average(edit_margins, weights=edits.trials)
    return Match(weights, float(gap), float(edit_margins.std()))


def margins(trials: Sequence[Trial]) -> dict[str, float]:
    """Margin of every edit and control in the `edited` arm, right before tuning, in nats; mean over seeds.

    The margin is log p(answer) − log p(alternative) if every fact has an alternative, else log p(answer)
    for all of them: two measures cannot be compared with each other.
    """
    scores: list[Scores] = [
        trial.scores(Arm.EDITED, kind, ProbeKind.REWRITE) for trial in trials for kind in FactKind
    ]
    alternatives = all(score.log_prob_alternative is not None for part in scores for score in part.values())
    found: dict[str, list[float]] = {}
    for part in scores:
        for (fact, _), score in part.items():
            against = (score.log_prob_alternative or 0.0) if alternatives else 0.0
            found.setdefault(fact, []).append(score.log_prob_answer - against)
    return {fact: float(np.mean(values)) for fact, values in found.items()}


def relations(trials: Sequence[Trial]) -> dict[str, str | None]:
    """Relation of every fact that was probed."""
    return {fact: relation for trial in trials for fact, relation in trial.relations.items()}
