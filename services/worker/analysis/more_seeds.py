"""What a share would be worth with more seeds: each adds answers, of facts that are asked already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.analysis.intervals import Share, share_of

if TYPE_CHECKING:
    from services.worker.analysis.counts import FactCounts


def answers_per_fact(counts: FactCounts) -> float:
    """Answers of the fact that a random answer belongs to, on average: Kish's Σ trials² / Σ trials."""
    return float((counts.trials**2).sum() / counts.trials.sum())


def correlation_of_seeds(counts: FactCounts, share: Share) -> float | None:
    """Correlation ρ of two answers of one fact, by the design effect 1 + (m − 1) ρ (Kish 1965, section 5.4).

    m: answers per fact. None with one seed, which tells nothing of it.
    """
    answers = answers_per_fact(counts)
    if answers <= 1:
        return None
    effect = float(counts.trials.sum()) / share.effective_trials
    return (effect - 1) / (answers - 1)


def with_more_seeds(counts: FactCounts, factor: float) -> Share | None:
    """The same share over `factor` times as many seeds; None where more seeds cannot be told from.

    However many there are, it is worth no more than facts / ρ independent trials.
    """
    share = share_of(counts)
    correlation = None if share is None else correlation_of_seeds(counts, share)
    if share is None or correlation is None:
        return None
    effect = 1 + (answers_per_fact(counts) * factor - 1) * correlation
    return Share(share.value, float(counts.trials.sum()) * factor / effect)
