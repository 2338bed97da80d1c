"""Edited models that a request supplies: checked and pinned like the model that is audited."""

from __future__ import annotations

from collections.abc import Callable

from services.api.problems import InvalidRequest
from services.api.validation import pointer
from shared.editors import CATALOGUE, SuppliedHyperparameters
from shared.model_references import (
    HubModel,
    InspectedModel,
    ModelNotUsable,
    local_file,
    parse_model_reference,
)
from shared.requests import AuditRequest, EditorChoice
from shared.settings import Settings
from shared.views import ProblemField

Inspect = Callable[[str, Settings], InspectedModel]


def pin_supplied(
    request: AuditRequest, audited: InspectedModel, settings: Settings, inspect: Inspect
) -> AuditRequest:
    """The request, in which every supplied model of a hub has the commit that it is at.

    Raises:
        InvalidRequest: supplied models that are not there, not allowed, or of another architecture.
    """
    editors, faults = [], []
    for index, choice in enumerate(request.editors):
        chosen = CATALOGUE[choice.name].settle(request.model, choice.hyperparameters)
        if isinstance(chosen, SuppliedHyperparameters):
            try:
                choice = pinned(choice, chosen, audited, settings, inspect)
            except ModelNotUsable as error:
                field = "delta" if chosen.delta else "checkpoint"
                where = pointer(["editors", index, "hyperparameters", field])
                faults.append(ProblemField(pointer=where, detail=error.reason))
        editors.append(choice)
    if faults:
        raise InvalidRequest(faults)
    return request.model_copy(update={"editors": tuple(editors)})


def pinned(
    choice: EditorChoice,
    chosen: SuppliedHyperparameters,
    audited: InspectedModel,
    settings: Settings,
    inspect: Inspect,
) -> EditorChoice:
    """The choice with the hub's commit; raises ModelNotUsable."""
    if chosen.delta is not None:
        local_file(chosen.delta, settings)
        return choice
    reference = parse_model_reference(str(chosen.checkpoint))
    if isinstance(reference, HubModel) and chosen.revision is not None:
        reference = HubModel(reference.repository, chosen.revision)
    supplied = inspect(str(reference), settings)
    check_alike(supplied, audited)
    if supplied.revision is None:
        return choice
    hyperparameters = {**choice.hyperparameters, "revision": supplied.revision}
    return choice.model_copy(update={"hyperparameters": hyperparameters})


def check_alike(supplied: InspectedModel, audited: InspectedModel) -> None:
    """Raise ModelNotUsable for another architecture or number of blocks, as far as they are known."""
    for name, theirs, ours in (
        ("architecture", supplied.architecture, audited.architecture),
        ("number of blocks", supplied.block_count, audited.block_count),
    ):
        if None not in (theirs, ours) and theirs != ours:
            raise ModelNotUsable(f"its {name} is {theirs}, that of the audited model {ours}")
