"""Which edits fine-tuning lost, when, to what, and what else was measured of them."""

from __future__ import annotations

from enum import StrEnum

from shared.reports.parts import Interval, ReportPart


class WentTo(StrEnum):
    """What the model answered at the probe that found an edit lost."""

    TARGET_TRUE = "target_true"  # exactly the old answer
    OTHER = "other"


class Mentions(ReportPart):
    """How often a recipe's records contain an edit's words, whole and whatever their case.

    Of the records trained on, each counted once. Text that the recipe replays is not in it: which of it is
    drawn, and how often, differs from seed to seed. The overlap tells how much of it names the facts.
    """

    target_new: int
    target_true: int
    subject: int


class Loss(ReportPart):
    """The loss of an edit under one seed: after `right_until` optimiser steps, by `wrong_at` of them.

    answer: what the model gave instead, up to the first token that differs. right_at_end: the right one came
    back by the last probe.
    """

    seed: int
    right_until: int
    wrong_at: int
    went_to: WentTo
    answer: str
    right_at_end: bool


class LostEdit(ReportPart):
    """An edit that one configuration lost under some seed; index: in the request.

    trials: seeds under which it was right just before tuning. margin_before: log p(target_new) −
    log p(target_true) just before tuning, in nats. mentions: None where the recipe's data was not searched.
    """

    index: int
    trials: int
    margin_before: float | None
    mentions: Mentions | None
    losses: list[Loss]


class WeightDrift(ReportPart):
    """How far tuning moved one weight matrix that the editor wrote to, and whether along what it wrote.

    Norms are Frobenius norms: of what the editor changed, and of what tuning changed after it. cosine: of the
    angle between the two changes as vectors. The editor's subspaces are spanned by the left and right
    singular vectors that hold 99 % of its change's energy, `rank` of each; energy_left, energy_right and
    energy_inside are the shares of the energy (squared norm) of tuning's change whose columns, rows, or both
    lie in them. A change without direction would have rank/rows, rank/columns, and their product there. Means
    over seeds; None where tuning left the matrix as it was.
    """

    parameter: str
    rows: int
    columns: int
    rank: int
    seeds: int
    edit_norm: float
    tuning_norm: float
    cosine: float | None
    energy_left: float | None
    energy_right: float | None
    energy_inside: float | None


class RiskyEdit(ReportPart):
    """An edit over all configurations and seeds under which it was right just before tuning.

    median_step: of its losses. went_to: how many losses went to what; answers: the commonest
    others, each up to the first token that differs.
    """

    index: int
    prompt: str
    subject: str
    target_new: str
    target_true: str
    target_tokens: int | None
    paraphrases: int
    trials: int
    lost: int
    share_lost: float
    median_step: float
    margin_before: float | None
    went_to: dict[WentTo, int]
    answers: list[str]


class Association(ReportPart):
    """Whether lost edits differ from kept ones in a feature, within configurations.

    auc: probability that a lost edit has a higher value than a kept one of the same configuration, ties
    counted half; 0.5 where the feature tells nothing. It says what goes with loss, not what causes it.
    """

    feature: str
    auc: float
    interval: Interval | None
    lost: int
    kept: int
    edits: int
    how: str
