"""What was expected before anything was measured, and what the intervals say of it.

The README states the hypotheses. Each says of differences that they are above zero, which is decided by their
95 % intervals and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from retention_study.parts import CONTINUED, ONE_BY_ONE
from services.worker.analysis.plots import headline
from shared.reports import ConfigurationReport, Difference, Mitigation
from shared.requests import Configuration


class Hypothesis(StrEnum):
    """The three hypotheses."""

    DECAY = "1. edits are forgotten more than control facts"
    PARAPHRASES = "2. paraphrases raise retention"
    FREEZING = "3. freezing the edited blocks raises retention"


class Decision(StrEnum):
    """What an interval says."""

    HOLDS = "holds"  # all of it above zero
    OPPOSITE = "the opposite holds"  # all of it below zero
    UNDECIDED = "undecided"
    UNMEASURED = "not measured"


@dataclass(frozen=True)
class Comparison:
    """A difference that a hypothesis says is above zero. primary: one of the few named in advance."""

    hypothesis: Hypothesis
    configuration: Configuration
    difference: Difference
    primary: bool

    @property
    def decision(self) -> Decision:
        """By the interval."""
        return decide(self.difference)


# Named in the README before anything was measured: (editor, paraphrases, recipe, freeze).
PRIMARY = {
    Hypothesis.DECAY: (("memit", 0, CONTINUED, "none"), ("rome", 0, ONE_BY_ONE, "none")),
    Hypothesis.PARAPHRASES: (("memit", 3, CONTINUED, "none"),),
    Hypothesis.FREEZING: (("memit", 0, CONTINUED, "edited"),),
}


def decide(difference: Difference) -> Decision:
    """Whether the interval lies above zero, below it, or holds it."""
    if difference.interval is None:
        return Decision.UNMEASURED
    if difference.interval.low > 0:
        return Decision.HOLDS
    return Decision.OPPOSITE if difference.interval.high < 0 else Decision.UNDECIDED


def comparisons(
    unmitigated: Sequence[ConfigurationReport], mitigations: Sequence[Mitigation]
) -> list[Comparison]:
    """All that bears on a hypothesis.

    unmitigated: configurations without paraphrases or freezing; each is asked for its excess decay.
    """
    return [*of_decay(unmitigated), *of_mitigations(mitigations)]


def of_decay(unmitigated: Sequence[ConfigurationReport]) -> Iterator[Comparison]:
    """Excess decay of every configuration."""
    for found in unmitigated:
        yield compared(Hypothesis.DECAY, found.configuration, headline(found.excess_decay))


def of_mitigations(mitigations: Sequence[Mitigation]) -> Iterator[Comparison]:
    """Retention gained by every number of paraphrases, and by every freezing that keeps what was written.

    What freezes everything else leaves the edited blocks to be tuned alone: no hypothesis speaks of it.
    """
    for found in mitigations:
        if found.configuration.paraphrases:
            yield compared(Hypothesis.PARAPHRASES, found.configuration, found.retention_gained)
        elif found.configuration.freeze.kind == "edited":
            yield compared(Hypothesis.FREEZING, found.configuration, found.retention_gained)


def compared(hypothesis: Hypothesis, configuration: Configuration, difference: Difference) -> Comparison:
    """The comparison, primary or not."""
    named = (configuration.editor, configuration.paraphrases, configuration.recipe, str(configuration.freeze))
    return Comparison(hypothesis, configuration, difference, named in PRIMARY[hypothesis])
