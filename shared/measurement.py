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
    BASE_STRESSED = "base→stressed"
    EDITED_STRESSED = "edited→stressed"


@dataclass(frozen=True)
class After:
    """The arms of the base and of the edited model after the same was done to both, and what that was."""

    base: Arm
    edited: Arm
    done: str

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All four, before and after, in the order in which a reader compares them."""
        return (Arm.BASE, self.base, Arm.EDITED, self.edited)


TUNED = After(Arm.BASE_TUNED, Arm.EDITED_TUNED, "fine-tuning")
STRESSED = After(Arm.BASE_STRESSED, Arm.EDITED_STRESSED, "stressing")


class Mode(StrEnum):
    """How an answer is judged right."""

    FIRST_TOKEN = "first_token"  # noqa: S105 (a scoring mode, not a password)
    EXACT = "exact"
    CONTAINS = "contains"
    PREFERENCE = "preference"


HEADLINE_MODE = Mode.EXACT


class FactKind(StrEnum):
    """Whether somebody edited the fact."""

    EDIT = "edit"
    CONTROL = "control"


class ProbeKind(StrEnum):
    """What a probe asks of its fact, and which answer it expects."""

    REWRITE = "rewrite"  # the fact's own prompt
    PARAPHRASE = "paraphrase"  # the same in other words
    NEIGHBORHOOD = "neighborhood"  # other subjects of which `target_true` holds: it is to be kept
    ATTRIBUTE = "attribute"  # other subjects of which `target_new` held all along
    PORTABILITY = "portability"  # what follows from the edit
    SAME_SUBJECT = "same_subject"  # something else about the subject, which the edit leaves alone
    DISTRACTED = "distracted"  # the fact's own prompt after sentences about nothing of the kind
    NEGATED = "negated"  # the prompt says "not": `target_new` is no good answer any more, yet counted


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
    """What a model answered to one probe. Log-probabilities are natural logs summed over tokens.

    contains: whether greedy decoding comes to the answer; None where nothing was generated. answer_tokens,
    alternative_tokens: how many the log-probabilities are summed over. answer_hits: of the answer's tokens,
    those that are the argmax under teacher forcing. predictions: ids of the argmax at each of them.
    predicted_token: the first of them as text; predicted_answer: all up to the first that is not the
    answer's, which is how greedy decoding begins. Both are cut off if very long.
    """

    first_token: bool
    exact: bool
    preference: bool | None
    log_prob_answer: float
    log_prob_alternative: float | None
    alternative_exact: bool | None
    predicted_token: str
    contains: bool | None = None
    answer_tokens: int | None = None
    answer_hits: int | None = None
    alternative_tokens: int | None = None
    predictions: str | None = None  # in base 10, with spaces between them
    predicted_answer: str | None = None

    def right(self, mode: Mode) -> bool | None:
        """Whether the answer is right in `mode`; None where the mode cannot be scored."""
        return {
            Mode.FIRST_TOKEN: self.first_token,
            Mode.EXACT: self.exact,
            Mode.CONTAINS: self.contains,
            Mode.PREFERENCE: self.preference,
        }[mode]
