"""Adapters to merge and models tuned elsewhere, checked like the model that is audited."""

from __future__ import annotations

from services.api.problems import InvalidRequest
from services.api.supplied_models import Inspect, check_alike
from services.api.validation import pointer
from shared.adapters import adapter_directory
from shared.model_references import HubModel, InspectedModel, ModelNotUsable, parse_model_reference
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.stressors import LoraMerge
from shared.views import ProblemField


def check_adapters(request: AuditRequest, settings: Settings) -> None:
    """Raise InvalidRequest for adapters that are not there, not allowed, or cannot be merged."""
    faults = []
    for index, stressor in enumerate(request.stressors):
        if isinstance(stressor, LoraMerge):
            try:
                adapter_directory(stressor.adapter, settings)
            except ModelNotUsable as error:
                where = pointer(["stressors", index, "adapter"])
                faults.append(ProblemField(pointer=where, detail=error.reason))
    if faults:
        raise InvalidRequest(faults)


def pin_tuned(
    request: AuditRequest, audited: InspectedModel, settings: Settings, inspect: Inspect
) -> AuditRequest:
    """The request, in which every model of a hub that was tuned elsewhere has the commit that it is at.

    Raises:
        InvalidRequest: models that are not there, not allowed, or of another architecture.
    """
    tuned, faults = [], []
    for index, model in enumerate(request.tuned):
        found: dict[str, str] = {}
        for field in ("edited_tuned", "base_tuned"):
            reference = getattr(model, field)
            if reference is None:
                continue
            try:
                found[field] = pinned_reference(reference, audited, settings, inspect)
            except ModelNotUsable as error:
                faults.append(ProblemField(pointer=pointer(["tuned", index, field]), detail=error.reason))
        tuned.append(model.model_copy(update=found))
    if faults:
        raise InvalidRequest(faults)
    return request.model_copy(update={"tuned": tuple(tuned)})


def pinned_reference(text: str, audited: InspectedModel, settings: Settings, inspect: Inspect) -> str:
    """The reference with the hub's commit, where it is a hub's; raises ModelNotUsable."""
    reference = parse_model_reference(text)
    found = inspect(text, settings)
    check_alike(found, audited)
    if isinstance(reference, HubModel) and found.revision is not None:
        return str(HubModel(reference.repository, found.revision))
    return text
