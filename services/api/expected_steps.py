"""How many steps of each kind an audit will have, told before its plan has laid them out."""

from __future__ import annotations

from shared.recipes import Freeze
from shared.requests import AuditRequest
from shared.states import StepKind


def expected_steps(request: AuditRequest) -> dict[StepKind, int]:
    """Steps that follow the plan, by kind.

    Tunings of the base that turn out to be the same, for two editors write to the same blocks, are
    counted for each.
    """
    edits = sum(len(editor.paraphrases) for editor in request.editors)
    of_edits = edits * sum(len(recipe.freeze) for recipe in request.recipes)
    of_base = sum(
        1 if freeze is Freeze.NONE else len(request.editors)
        for recipe in request.recipes
        for freeze in recipe.freeze
    )
    return {
        StepKind.BASE: 1,
        StepKind.EDIT: edits,
        StepKind.TUNE: (of_edits + of_base) * len(request.seeds),
        StepKind.ANALYSE: 1,
    }
