"""`/training-sets`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from services.api import training_sets
from services.api.bodies import read_bounded
from services.api.dependencies import PartsDep, Submitter
from services.api.problem_responses import problems
from services.api.problems import (
    BodyTooLarge,
    InvalidRequest,
    ServiceUnavailable,
    TrainingDataUnusable,
    TrainingSetNotFound,
    Unauthorized,
    UnsupportedRecordFormat,
)
from shared.training_data.formats import GZIP
from shared.views import TrainingSetPage, TrainingSetView

SUFFIXES = {
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/json": ".json",
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "text/plain": ".txt",
}
router = APIRouter(prefix="/training-sets", tags=["training sets"], responses=problems(ServiceUnavailable))


async def file_body(request: Request, parts: PartsDep, _: Submitter) -> bytes:
    """The file, once it is known who sends it."""
    return await read_bounded(request, parts.settings.max_body_bytes)


def file_suffix(request: Request, _: Submitter) -> str:
    """How the file is read, from its media type and its encoding, once it is known who sends it.

    Raises:
        UnsupportedRecordFormat: nothing reads it.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    suffix = SUFFIXES.get(media_type)
    if suffix is None or encoding not in {"identity", "gzip"}:
        raise UnsupportedRecordFormat(list(SUFFIXES))
    return suffix + GZIP * (encoding == "gzip")


@router.post(
    "",
    status_code=201,
    responses={
        201: {
            "description": "Stored; every record was read.",
            "headers": {"Location": {"description": "The training set.", "schema": {"type": "string"}}},
        },
        **problems(Unauthorized, BodyTooLarge, UnsupportedRecordFormat, TrainingDataUnusable),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in SUFFIXES},
        }
    },
)
def upload_training_set(
    suffix: Annotated[str, Depends(file_suffix)],
    content: Annotated[bytes, Depends(file_body)],
    parts: PartsDep,
    principal: Submitter,
    response: Response,
) -> TrainingSetView:
    """Upload a file of records to train on; the same content twice is one training set."""
    found = training_sets.upload(parts.engine, parts.store, principal, content, suffix)
    response.headers["Location"] = f"/training-sets/{found.id}"
    return found


@router.get("", responses=problems(Unauthorized, InvalidRequest))
def list_training_sets(
    parts: PartsDep,
    principal: Submitter,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=1_000)] = None,
) -> TrainingSetPage:
    """List training sets, newest first."""
    return training_sets.page(parts.engine, principal, limit, cursor)


@router.get("/{training_set_id}", responses=problems(Unauthorized, TrainingSetNotFound))
def get_training_set(training_set_id: str, parts: PartsDep, principal: Submitter) -> TrainingSetView:
    """Show one training set."""
    return training_sets.view(parts.engine, principal, training_set_id)
