"""From the progress of a part of a step to the step's own."""

from __future__ import annotations

from services.worker.language_models.progress import Progress
from services.worker.steps.context import AuditContext
from shared.tables import Step


def progress_of_part(
    context: AuditContext, step: Step, note: str, start: float = 0.0, end: float = 1.0
) -> Progress:
    """Report a part that takes `step` from the share `start` to the share `end`.

    note: may name `{done}` and `{whole}`.
    """

    def report(done: int, whole: int) -> None:
        share = start + (end - start) * done / whole
        context.report_progress(step, share, note.format(done=f"{done:,}", whole=f"{whole:,}"))

    return report
