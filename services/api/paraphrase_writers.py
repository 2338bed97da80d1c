"""Where a request has paraphrases written: checked, and models pinned like the one that is audited."""

from __future__ import annotations

from services.api.problems import InvalidRequest
from services.api.validation import pointer
from shared.model_references import HubModel, ModelNotUsable, inspect_model, parse_model_reference
from shared.paraphrases import ENDPOINT, MODEL_PREFIX
from shared.requests import AuditRequest, EditorChoice
from shared.settings import Settings
from shared.views import ProblemField


def pin_writers(request: AuditRequest, settings: Settings) -> AuditRequest:
    """The request, in which every model of a hub that writes paraphrases has the commit that it is at.

    Raises:
        InvalidRequest: sources that are not there or not allowed here.
    """
    editors, faults = [], []
    for index, choice in enumerate(request.editors):
        try:
            choice = pinned(choice, settings)
        except ModelNotUsable as error:
            where = pointer(["editors", index, "paraphrase_source"])
            faults.append(ProblemField(pointer=where, detail=error.reason))
        editors.append(choice)
    if faults:
        raise InvalidRequest(faults)
    return request.model_copy(update={"editors": tuple(editors)})


def pinned(choice: EditorChoice, settings: Settings) -> EditorChoice:
    """The choice with the hub's commit; raises ModelNotUsable."""
    source = choice.paraphrase_source
    if source == ENDPOINT and settings.paraphrase_url is None:
        raise ModelNotUsable("no endpoint that writes paraphrases is configured here")
    if not source.startswith(MODEL_PREFIX):
        return choice
    reference = parse_model_reference(source.removeprefix(MODEL_PREFIX))
    writer = inspect_model(reference, settings, only_writes=True)
    if not isinstance(reference, HubModel) or writer.revision is None:
        return choice
    commit = HubModel(reference.repository, writer.revision)
    return choice.model_copy(update={"paraphrase_source": f"{MODEL_PREFIX}{commit}"})
