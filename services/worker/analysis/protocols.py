"""The metrics of CounterFact, zsRE and KnowEdit, from the scores that are there anyway."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from services.worker.analysis.bootstrap import (
    Sample,
    bootstrap_interval,
    mean_change,
    paired_change_sample,
    ratio,
    share_sample,
    typical_size,
)
from services.worker.analysis.protocol_definitions import DEFINITIONS, SCORES, Definition
from services.worker.analysis.retention import arms_after
from shared.measurement import Arm, FactKind
from shared.reports import ProtocolMetric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.worker.analysis.inputs import Trial

    Array = NDArray[np.float64]

# Of a fact's part in a resample: coarser than any reader looks, so that few facts are a class of their own.
DECIMALS = 3


@dataclass(frozen=True)
class Records:
    """The records of each fact, one per seed: their sums and their number, (facts,) float64 each."""

    facts: tuple[str, ...]
    sums: Array
    counts: Array

    def aligned(self, facts: Sequence[str]) -> Array:
        """Sums and counts of the given facts, (facts, 2); zeros for one that has no record here."""
        found = dict(zip(self.facts, np.column_stack([self.sums.round(DECIMALS), self.counts]), strict=True))
        return np.array([found.get(fact, (0.0, 0.0)) for fact in facts]).reshape(-1, 2)


def protocol_metrics(trials: Sequence[Trial]) -> list[ProtocolMetric]:
    """Every metric that something was scored for, of the edited models as edited and after what was done."""
    found = []
    for arm in (Arm.EDITED, arms_after(trials).edited):
        records = {
            (definition.protocol, definition.name): records_of(trials, arm, definition)
            for definition in DEFINITIONS
        }
        for definition in DEFINITIONS:
            counted = records[definition.protocol, definition.name]
            if counted.facts:
                found.append(mean_of(definition, arm, counted))
        for protocol, name, parts, source in SCORES:
            counts = [records[protocol, part] for part in parts]
            if all(part.facts for part in counts):
                found.append(harmonic_mean_of(protocol, name, parts, arm, counts, source))
    return found


def records_of(trials: Sequence[Trial], arm: Arm, definition: Definition) -> Records:
    """The mean over the probes of each edit, summed over seeds."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for trial in trials:
        rated: dict[str, list[float]] = {}
        for kind in definition.kinds:
            base = trial.scores(Arm.BASE, FactKind.EDIT, kind)
            for key, score in trial.scores(arm, FactKind.EDIT, kind).items():
                counted = definition.rate(score, base.get(key))
                if counted is not None:
                    rated.setdefault(key[0], []).append(counted)
        for fact, of_prompts in rated.items():
            sums[fact] = sums.get(fact, 0.0) + fmean(of_prompts)
            counts[fact] = counts.get(fact, 0) + 1
    facts = tuple(sorted(sums))
    return Records(
        facts,
        np.array([sums[fact] for fact in facts]),
        np.array([counts[fact] for fact in facts], dtype=np.float64),
    )


def mean_of(definition: Definition, arm: Arm, records: Records) -> ProtocolMetric:
    """The mean over all records, with a bootstrap interval over facts."""
    value = float(records.sums.sum() / records.counts.sum())
    make = paired_change_sample if definition.signed else share_sample
    return ProtocolMetric(
        protocol=definition.protocol,
        name=definition.name,
        arm=arm,
        mode=definition.mode,
        numerator=float(records.sums.sum()),
        denominator=int(records.counts.sum()),
        value=value,
        interval=bootstrap_interval(mean_change, [make(records.sums.round(DECIMALS), records.counts)], value),
        how=f"Mean over records of the mean over prompts: {definition.how}.",
        source=definition.source,
    )


def harmonic_mean_of(
    protocol: str, name: str, parts: tuple[str, ...], arm: Arm, records: Sequence[Records], source: str
) -> ProtocolMetric:
    """n / Σ 1 / xᵢ of the means xᵢ; 0 where one of them is."""
    means = np.array([[float(part.sums.sum()), float(part.counts.sum())] for part in records]).reshape(1, -1)
    value = float(harmonic_mean(means)[0])
    facts = sorted({fact for part in records for fact in part.facts})
    sizes = [typical_size(part.counts) for part in records]
    outcomes = list(product((0.0, 1.0), repeat=len(records)))
    sample = Sample(
        rows=np.hstack([part.aligned(facts) for part in records]),
        added=np.array(
            [np.column_stack([np.multiply(outcome, sizes), sizes]).ravel() for outcome in outcomes]
        ),
        shares=np.full(len(outcomes), 1 / len(outcomes)),
    )
    return ProtocolMetric(
        protocol=protocol,
        name=name,
        arm=arm,
        mode="harmonic mean",
        numerator=None,
        denominator=None,
        value=value,
        interval=bootstrap_interval(harmonic_mean, [sample], value),
        how=f"Harmonic mean of {', '.join(parts)}.",
        source=source,
    )


def harmonic_mean(sums: Array) -> Array:
    """From columns (sum, count) of each mean: (rows, 2 n) to (rows,)."""
    means = np.column_stack([ratio(sums[:, at], sums[:, at + 1]) for at in range(0, sums.shape[1], 2)])
    positive = (means > 0).all(axis=1)
    harmonic = np.where(np.isnan(means).any(axis=1), np.nan, 0.0)
    harmonic[positive] = means.shape[1] / (1 / means[positive]).sum(axis=1)
    return harmonic
