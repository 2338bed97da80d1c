"""Counts per fact: the unit that is drawn from a population, and so the unit of all uncertainty here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class FactCounts:
    """A share, fact by fact: how many of a fact's answers qualify, and how many of those count.

    The answers of one fact (over seeds, or over several prompts) are alike, so they are kept together.
    facts: ids, sorted. successes, trials: (facts,) float64; every fact has at least one trial.
    """

    facts: tuple[str, ...]
    successes: NDArray[np.float64]
    trials: NDArray[np.float64]

    @classmethod
    def of(cls, outcomes: Iterable[tuple[str, bool]]) -> FactCounts:
        """Count (fact id, whether it is a success) pairs."""
        successes: dict[str, int] = {}
        trials: dict[str, int] = {}
        for fact, success in outcomes:
            trials[fact] = trials.get(fact, 0) + 1
            successes[fact] = successes.get(fact, 0) + success
        facts = tuple(sorted(trials))
        return cls(facts, _column(facts, successes), _column(facts, trials))

    @property
    def numerator(self) -> int:
        return int(self.successes.sum())

    @property
    def denominator(self) -> int:
        return int(self.trials.sum())

    @property
    def value(self) -> float | None:
        """The share; None over nothing."""
        return self.numerator / self.denominator if self.facts else None

    def aligned(self, facts: tuple[str, ...]) -> NDArray[np.float64]:
        """Successes and trials of the given facts, (facts, 2) float64; zeros for a fact not counted here."""
        rows = dict(zip(self.facts, np.column_stack([self.successes, self.trials]), strict=True))
        return np.array([rows.get(fact, (0.0, 0.0)) for fact in facts], dtype=np.float64).reshape(-1, 2)


def _column(facts: tuple[str, ...], values: Mapping[str, int]) -> NDArray[np.float64]:
    return np.array([values[fact] for fact in facts], dtype=np.float64)
