"""`/editors`."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.dependencies import Submitter
from services.api.problem_responses import problems
from services.api.problems import EditorNotFound, Unauthorized
from shared.editors import CATALOGUE, EditorDescription
from shared.views import EditorView

router = APIRouter(prefix="/editors", tags=["editors"])


@router.get("", responses=problems(Unauthorized))
def list_editors(_: Submitter) -> list[EditorView]:
    """List the editors with their hyperparameters."""
    return [_view(description) for description in CATALOGUE.values()]


@router.get("/{name}", responses=problems(Unauthorized, EditorNotFound))
def get_editor(name: str, _: Submitter) -> EditorView:
    """Show one editor."""
    if name not in CATALOGUE:
        raise EditorNotFound(name, sorted(CATALOGUE))
    return _view(CATALOGUE[name])


def _view(description: EditorDescription) -> EditorView:
    return EditorView(
        name=description.name,
        title=description.title,
        summary=description.summary,
        paper=description.paper,
        hyperparameters=description.hyperparameters.model_json_schema(),
        model_defaults={model: dict(values) for model, values in description.model_defaults.items()},
    )
