"""The words of the measurement: arms, modes, kinds of fact and of probe, and one probe's score."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Arm(StrEnum):
    """A point at which probes run."""

    BASE = "base"
    BASE_TUNED = "base→tuned"
    EDITED = "edited"
    EDITED_TUNED = "edited→tuned"


class Mode(StrEnum):
    """How an answer is judged right."""

    FIRST_TOKEN = "first_token"  # noqa: S105 (a scoring mode, not a password)
    EXACT = "exact"
    PREFERENCE = "preference"


HEADLINE_MODE = Mode.EXACT


class FactKind(StrEnum):
    """Whether somebody edited the fact."""

    EDIT = "edit"
    CONTROL = "control"


class ProbeKind(StrEnum):
    """What a probe asks of its fact."""

    REWRITE = "rewrite"
    PARAPHRASE = "paraphrase"
    NEIGHBORHOOD = "neighborhood"


@dataclass(frozen=True)
class Probe:
    """A prompt with an expected answer, scored the same way for edits and for control facts.

    `alternative` is the answer that competes with it: `target_true` for an edit, `target_new` for a
    neighbourhood prompt of that edit, another answer of the relation for a control fact. Without
    one, `preference` is not scored. Neither answer carries a boundary space.
    """

    fact_id: str
    fact_kind: FactKind
    probe_kind: ProbeKind
    index: int  # position among the fact's probes of this kind
    prompt: str
    answer: str
    alternative: str | None = None
    relation: str | None = None


@dataclass(frozen=True)
class ProbeScore:
    """What a model answered to one probe. Log-probabilities are natural logs summed over tokens."""

    first_token: bool
    exact: bool
    preference: bool | None
    log_prob_answer: float
    log_prob_alternative: float | None
    alternative_exact: bool | None
    predicted_token: str

    def right(self, mode: Mode) -> bool | None:
        """Whether the answer is right in `mode`; None where the mode cannot be scored."""
        return {
            Mode.FIRST_TOKEN: self.first_token,
            Mode.EXACT: self.exact,
            Mode.PREFERENCE: self.preference,
        }[mode]
