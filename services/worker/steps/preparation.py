"""How a preparation is planned and found again; what there is to prepare is in `prepare`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.worker.steps.context import AuditContext, StepOutcome
from shared.editors import Hyperparameters
from shared.preparations import Preparation
from shared.requests import EditorChoice
from shared.states import StepKind
from shared.tables import Step


@dataclass(frozen=True)
class Need:
    """A preparation that an edit needs.

    of: for the step's title, what it is made from. inputs: all that it depends on beside the model, as JSON:
    together they are what it is reused by, also by audits of other edits.
    """

    preparation: Preparation
    of: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Workshop:
    """How one kind of preparation is planned and made.

    need: given the audit, an editor's choice, how many paraphrases it trains on and its settled
    hyperparameters, what this edit needs of the kind, or None. run: makes it.
    """

    need: Callable[[AuditContext, EditorChoice, int, Hyperparameters], Need | None]
    run: Callable[[AuditContext, Step], StepOutcome]


def prepared(context: AuditContext, step: Step, preparation: Preparation) -> Step | None:
    """The step that prepared this for `step`, which succeeded; None where it needs none of the kind."""
    return next(
        (
            needed
            for needed in map(context.step, step.needs)
            if needed.kind is StepKind.PREPARE and needed.inputs["preparation"] == preparation
        ),
        None,
    )
