"""The edits that are lost most often and earliest over all configurations."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.deaths import lost_edits, mean_known
from services.worker.analysis.lifetimes import trial_lifetimes
from shared.measurement import FactKind, Mode
from shared.reports import RiskyEdit, WentTo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.worker.analysis.inputs import AuditFindings, EditFeatures
    from shared.reports import Loss, LostEdit

MOST_SHOWN = 20
MOST_ANSWERS = 3


@dataclass
class _Record:
    losses: list[Loss] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)


def riskiest(findings: AuditFindings, mode: Mode) -> list[RiskyEdit]:
    """The table over all configurations of the audit."""
    lost = [
        lost_edits(findings.trials_of(part), mode, findings.features, part.recipe)
        for part in findings.configurations
    ]
    return riskiest_edits(lost, trials_followed(findings, mode), findings.features)


def trials_followed(findings: AuditFindings, mode: Mode) -> Counter[int]:
    """By an edit's index, the trials of all configurations that could have lost it."""
    return Counter(
        findings.features[fact].index
        for trial in findings.trials
        for fact, _ in trial_lifetimes(trial, FactKind.EDIT, mode)
        if fact in findings.features
    )


def riskiest_edits(
    lost: Iterable[Sequence[LostEdit]],
    trials: Mapping[int, int],
    features: Mapping[str, EditFeatures],
    most: int = MOST_SHOWN,
) -> list[RiskyEdit]:
    """The edits with the highest share of trials lost, ties by the median step of their losses.

    lost: of each configuration; trials: by an edit's index, those of all configurations in which it was right
    just before tuning.
    """
    records: dict[int, _Record] = defaultdict(_Record)
    for edits in lost:
        for edit in edits:
            record = records[edit.index]
            record.losses += edit.losses
            record.margins.append(edit.margin_before)
    known = {part.index: part for part in features.values()}
    found = [
        risky(known[index], trials[index], record) for index, record in records.items() if index in known
    ]
    return sorted(found, key=lambda edit: (-edit.share_lost, edit.median_step, edit.index))[:most]


def risky(known: EditFeatures, trials: int, record: _Record) -> RiskyEdit:
    """One row of the table."""
    answers = Counter(loss.answer for loss in record.losses if loss.went_to is WentTo.OTHER)
    return RiskyEdit(
        index=known.index,
        prompt=known.prompt,
        subject=known.subject,
        target_new=known.target_new,
        target_true=known.target_true,
        target_tokens=known.target_tokens,
        paraphrases=known.paraphrases,
        trials=trials,
        lost=len(record.losses),
        share_lost=len(record.losses) / trials,
        median_step=float(np.median([loss.wrong_at for loss in record.losses])),
        margin_before=mean_known(record.margins),
        went_to=dict(Counter(loss.went_to for loss in record.losses)),
        answers=[answer for answer, _ in answers.most_common(MOST_ANSWERS)],
    )
