"""What the audit measures, one function per formula. All of it is counted fact by fact, seeds pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.bootstrap import (
    bootstrap_interval,
    difference_of_shares,
    mean_change,
    paired_change_sample,
    share_sample,
)
from services.worker.analysis.counts import FactCounts
from services.worker.analysis.intervals import share_of, wilson_interval
from services.worker.analysis.scoring_words import how_measured
from shared.measurement import TUNED, After, Arm, FactKind, Mode, ProbeKind
from shared.reports import Difference, Metric, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from services.worker.analysis.inputs import Trial


def share_right(
    trials: Iterable[Trial], arm: Arm, fact_kind: FactKind, probe_kind: ProbeKind, mode: Mode
) -> FactCounts:
    """Share of probes answered right at an arm; probes that `mode` cannot score do not count."""

    def outcomes() -> Iterator[tuple[str, bool]]:
        for trial in trials:
            for (fact, _), score in trial.scores(arm, fact_kind, probe_kind).items():
                right = score.right(mode)
                if right is not None:
                    yield fact, right

    return FactCounts.of(outcomes())


def efficacy(trials: Iterable[Trial], mode: Mode) -> FactCounts:
    """Share of edits right on their own prompts once the editor is done (`edited`)."""
    return share_right(trials, Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE, mode)


def retention(
    trials: Iterable[Trial], fact_kind: FactKind, mode: Mode, tuning_step: int | None = None
) -> FactCounts:
    """Share right after tuning (`edited→tuned`), or stressing, among those right just before it (`edited`).

    Edits and controls alike, on their own prompts, in the same run and mode. tuning_step: how far into
    the tuning; by default its end.
    """

    def outcomes() -> Iterator[tuple[str, bool]]:
        for trial in trials:
            before = trial.scores(Arm.EDITED, fact_kind, ProbeKind.REWRITE)
            after = trial.scores(trial.after.edited, fact_kind, ProbeKind.REWRITE, tuning_step)
            for key, score in before.items():
                if score.right(mode) and key in after:
                    yield key[0], bool(after[key].right(mode))

    return FactCounts.of(outcomes())


def reversion(trials: Iterable[Trial], mode: Mode) -> FactCounts:
    """Share of lost edits that went back to `target_true`.

    Lost: right just before tuning and wrong after it, in `mode`. Gone back: after tuning every token of
    `target_true` is the argmax, whatever the mode.
    """

    def outcomes() -> Iterator[tuple[str, bool]]:
        for trial in trials:
            before = trial.scores(Arm.EDITED, FactKind.EDIT, ProbeKind.REWRITE)
            after = trial.scores(trial.after.edited, FactKind.EDIT, ProbeKind.REWRITE)
            for key, score in before.items():
                if score.right(mode) and key in after and not after[key].right(mode):
                    yield key[0], bool(after[key].alternative_exact)

    return FactCounts.of(outcomes())


def locality(trials: Iterable[Trial], mode: Mode, arm: Arm = Arm.EDITED) -> FactCounts:
    """Share of neighbourhood probes right in `base` that are still right at `arm`.

    In `edited` this is what the editor alone spared; in `edited→tuned` what it and tuning did together.
    """

    def outcomes() -> Iterator[tuple[str, bool]]:
        for trial in trials:
            base = trial.scores(Arm.BASE, FactKind.EDIT, ProbeKind.NEIGHBORHOOD)
            edited = trial.scores(arm, FactKind.EDIT, ProbeKind.NEIGHBORHOOD)
            for key, score in base.items():
                if score.right(mode) and key in edited:
                    yield key[0], bool(edited[key].right(mode))

    return FactCounts.of(outcomes())


def excess_decay(trials: Iterable[Trial], mode: Mode) -> Difference:
    """Retention of controls − retention of edits, with a bootstrap interval."""
    trials = list(trials)
    edits = retention(trials, FactKind.EDIT, mode)
    controls = retention(trials, FactKind.CONTROL, mode)
    value = interval = None
    if edits.value is not None and controls.value is not None:
        value = controls.value - edits.value
        samples = [share_sample(counts.successes, counts.trials) for counts in (controls, edits)]
        interval = bootstrap_interval(difference_of_shares, samples, value)
    return Difference(
        name="excess_decay",
        mode=mode,
        value=value,
        interval=interval,
        edits=len(edits.facts),
        controls=len(controls.facts),
        terms=[
            term("retention", controls, arms_after(trials).edited, FactKind.CONTROL),
            term("retention", edits, arms_after(trials).edited, FactKind.EDIT),
        ],
        how=how_measured("excess_decay", mode),
    )


def interaction(trials: Iterable[Trial], mode: Mode) -> Difference:
    """Difference in differences of the controls' share right over the four arms.

    (edited→tuned − edited) − (base→tuned − base), fact by fact, over facts scored at all four: negative
    where tuning costs an edited model more of its unedited facts than it costs the base model.
    """
    changes: dict[str, float] = {}
    counted: dict[str, int] = {}
    trials = list(trials)
    after = arms_after(trials)
    order = (after.edited, Arm.EDITED, after.base, Arm.BASE)
    right = dict.fromkeys(order, 0)
    for trial in trials:
        arms = [trial.scores(arm, FactKind.CONTROL, ProbeKind.REWRITE) for arm in order]
        for key in arms[0].keys() & arms[1].keys() & arms[2].keys() & arms[3].keys():
            edited_tuned, edited, base_tuned, base = answers = [scores[key].right(mode) for scores in arms]
            if base is None or base_tuned is None or edited is None or edited_tuned is None:
                continue
            change = (edited_tuned - edited) - (base_tuned - base)
            changes[key[0]] = changes.get(key[0], 0.0) + change
            counted[key[0]] = counted.get(key[0], 0) + 1
            for arm, answer in zip(order, answers, strict=True):
                right[arm] += bool(answer)
    facts = sorted(counted)
    value = interval = None
    if facts:
        sample = paired_change_sample(
            np.array([changes[fact] for fact in facts]), np.array([float(counted[fact]) for fact in facts])
        )
        value = float(sample.rows[:, 0].sum() / sample.rows[:, 1].sum())
        interval = bootstrap_interval(mean_change, [sample], value)
    total = sum(counted.values())
    return Difference(
        name="interaction",
        mode=mode,
        value=value,
        interval=interval,
        edits=0,
        controls=len(facts),
        terms=[
            Term(name="share_right", arm=arm, fact_kind=FactKind.CONTROL, numerator=count, denominator=total)
            for arm, count in right.items()
        ],
        how=how_measured("interaction", mode),
    )


def arms_after(trials: Sequence[Trial]) -> After:
    """The arms that what was done to the models led to, in trials of one configuration."""
    return trials[0].after if trials else TUNED


def term(name: str, counts: FactCounts, arm: Arm, fact_kind: FactKind) -> Term:
    """A share as part of a difference."""
    return Term(
        name=name,
        arm=arm,
        fact_kind=fact_kind,
        numerator=float(counts.successes.sum()),
        denominator=float(counts.trials.sum()),
    )


def metric(
    name: str,
    counts: FactCounts,
    mode: Mode,
    *,
    arm: Arm | None = None,
    fact_kind: FactKind | None = None,
    probe_kind: ProbeKind | None = None,
) -> Metric:
    """A share as the report states it, with its Wilson interval."""
    share = share_of(counts)
    return Metric(
        name=name,
        mode=mode,
        arm=arm,
        fact_kind=fact_kind,
        probe_kind=probe_kind,
        numerator=counts.numerator,
        denominator=counts.denominator,
        value=counts.value,
        interval=wilson_interval(share) if share else None,
        how=how_measured(name, mode),
    )
