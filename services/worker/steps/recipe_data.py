"""What a recipe trains on, as a step's key knows it."""

from __future__ import annotations

from typing import Any

from services.worker.steps.context import AuditContext, Records
from services.worker.steps.failures import StepFailed
from shared.recipes import Recipe, TextRecord
from shared.states import Cause
from shared.training_data import content_hash


def data_identity(recipe: Recipe, records: Records, replay: list[TextRecord]) -> list[Any]:
    """What tells a recipe's data from other data, in JSON's own types."""
    identity: list[Any] = [content_hash(records), recipe.data.held_out_share, recipe.data.limit]
    return [*identity, content_hash(replay), recipe.data.replay.share] if recipe.data.replay else identity


def planned_data(
    context: AuditContext, recipe: Recipe, planned: list[Any]
) -> tuple[Records, list[TextRecord]]:
    """The recipe's records and what it replays, which must be those that the step's key was made from."""
    records, replay = context.records(recipe), context.replay(recipe)
    if data_identity(recipe, records, replay) != planned:
        raise StepFailed(Cause.USER, f"the data of recipe {recipe.name} changed since the audit began")
    return records, replay
