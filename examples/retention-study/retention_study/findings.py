"""All results that are there, as tables and plots look at them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retention_study import RESULTS
from retention_study.parts import (
    CONTINUED,
    FREEZING_PARTS,
    OBJECTIVE_PARTS,
    ONE_BY_ONE,
    PARAPHRASES_PARTS,
    SINGLE_EDITORS,
    is_single,
)
from retention_study.results import Kept, KeptReport, KeptSingle, load
from retention_study.singles import pooled
from shared.reports import ConfigurationReport, Mitigation


@dataclass(frozen=True)
class Findings:
    """What was found: by objective, under freezing, with paraphrases, and one edit at a time."""

    objectives: list[KeptReport]
    freezing: list[KeptReport]
    paraphrases: list[KeptReport]
    singles: list[KeptSingle]

    @property
    def files(self) -> list[Kept]:
        """Every file of results."""
        return [*self.objectives, *self.freezing, *self.paraphrases, *self.singles]

    @property
    def batch(self) -> list[ConfigurationReport]:
        """Edits in a batch, under every objective."""
        return [found for report in self.objectives for found in report.configurations]

    @cached_property
    def one_by_one(self) -> list[ConfigurationReport]:
        """Edits one by one, pooled."""
        return [pooled(self.singles, editor) for editor in SINGLE_EDITORS] if self.singles else []

    @property
    def unmitigated(self) -> list[ConfigurationReport]:
        """Every configuration without paraphrases or freezing."""
        return [*self.batch, *self.one_by_one]

    @property
    def continued(self) -> list[ConfigurationReport]:
        """Those under continued pre-training, the seed study's first task."""
        tasks = {CONTINUED, ONE_BY_ONE}
        return [found for found in self.unmitigated if found.configuration.recipe in tasks]

    @property
    def mitigations(self) -> list[Mitigation]:
        """Every mitigation against doing without."""
        return [found for report in (*self.freezing, *self.paraphrases) for found in report.mitigations]


def read_findings(folder: Path = RESULTS) -> Findings:
    """Read the results that are there."""
    singles = sorted(path.stem for path in folder.glob(f"{ONE_BY_ONE}-*.json") if is_single(path.stem))
    return Findings(
        objectives=load(KeptReport, OBJECTIVE_PARTS, folder),
        freezing=load(KeptReport, FREEZING_PARTS, folder),
        paraphrases=load(KeptReport, PARAPHRASES_PARTS, folder),
        singles=load(KeptSingle, singles, folder),
    )
