"""How many steps of each kind an audit will have, told before its plan has laid them out."""

from __future__ import annotations

from shared.editors import CATALOGUE, MendHyperparameters
from shared.paraphrases import OWN
from shared.requests import AuditRequest, EditorChoice
from shared.states import StepKind
from shared.stressors import FurtherEdits


def expected_steps(request: AuditRequest) -> dict[StepKind, int]:
    """Steps that follow the plan, by kind.

    Tunings of the base that turn out to be the same, for two editors write to the same blocks, are
    counted for each; so are preparations of an editor that is chosen twice.
    """
    edits = sum(len(editor.paraphrases) for editor in request.editors)
    of_edits = edits * sum(len(recipe.freeze) for recipe in request.recipes)
    of_base = sum(
        len(request.editors) if freeze.follows_edits else 1
        for recipe in request.recipes
        for freeze in recipe.freeze
    )
    written = [
        choice for choice in request.editors if any(choice.paraphrases) and choice.paraphrase_source != OWN
    ]
    trained = sum(hypernetworks(request, choice) for choice in request.editors)
    return {
        StepKind.BASE: 1,
        StepKind.PREPARE: len(written) + trained,
        StepKind.EDIT: edits,
        StepKind.TUNE: (of_edits + of_base) * len(request.seeds),
        StepKind.STRESS: stresses(request, edits),
        StepKind.PROBE: sum(1 if model.base_tuned is None else 2 for model in request.tuned),
        StepKind.ANALYSE: 1,
    }


def stresses(request: AuditRequest, edits: int) -> int:
    """Every stressor upon every edited model and the base; further edits to the base, by each editor."""
    return sum(
        (edits + (len(request.editors) if isinstance(stressor, FurtherEdits) else 1))
        * (len(request.seeds) if stressor.draws else 1)
        for stressor in request.stressors
    )


def hypernetworks(request: AuditRequest, choice: EditorChoice) -> int:
    """How many are trained for an editor: one per number of edits that it is taught at once."""
    chosen = CATALOGUE[choice.name].settle(request.model, choice.hyperparameters)
    if not isinstance(chosen, MendHyperparameters):
        return 0
    return len({chosen.group_size(len(request.edits) * (1 + count)) for count in choice.paraphrases})
