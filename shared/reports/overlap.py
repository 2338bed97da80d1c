"""How far the training data of a recipe speaks of the facts that the audit measures."""

from __future__ import annotations

from shared.reports.parts import ReportPart


class EditOverlap(ReportPart):
    """Records that name an edit's subject, and of these those that name its new, or its old, target too.

    facts_named: edits whose subject some record names.
    """

    facts: int
    facts_named: int
    records_with_subject: int
    records_with_target_new: int
    records_with_target_true: int


class ControlOverlap(ReportPart):
    """Records that name a control candidate's subject, or its prompt if it has none, and its answer too."""

    facts: int
    facts_named: int
    records_with_subject: int
    records_with_answer: int


class RecordOverlap(ReportPart):
    """Of so many records."""

    records: int
    edits: EditOverlap
    controls: ControlOverlap

    @property
    def anything(self) -> bool:
        """Whether a single record names a single subject."""
        return self.edits.records_with_subject + self.controls.records_with_subject > 0


class RecipeOverlap(ReportPart):
    """The overlap of one recipe's records, held-out ones included, and of the text that it replays.

    left_out: records that the recipe left out since they name a subject.
    """

    recipe: str
    data: RecordOverlap
    replay: RecordOverlap | None = None
    left_out: int = 0
