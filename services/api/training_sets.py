"""Uploaded training sets: checked line by line, immutable, stored once per content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, insert, literal, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from services.api import cursors
from services.api.audits import ID, Place
from services.api.authentication import Principal
from services.api.problems import MAX_FIELDS, TrainingDataUnusable, TrainingSetNotFound
from services.api.validation import pointer
from shared.artifacts import ArtifactStore
from shared.database import UtcDateTime, database_now, reading, transaction
from shared.recipes import Objective, TrainingRecord
from shared.tables import TrainingSet, new_id
from shared.training_data import Item, RecordReader, UnusableTrainingData
from shared.training_data.formats import items_in
from shared.training_data.shapes import natural_objective
from shared.views import ProblemField, TrainingSetPage, TrainingSetView

SOURCE = "upload"


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    objective: Objective
    shape: str
    record_count: int


def upload(
    engine: Engine, store: ArtifactStore, principal: Principal, content: bytes, suffix: str
) -> TrainingSetView:
    """Check and store a file of records, or find the one with this content that the submitter has already.

    suffix: how the file is read.

    Raises:
        TrainingDataUnusable: records are at fault; each is named.
        ArtifactStoreUnavailable: see `ArtifactStore`.
    """
    found = check(content, suffix)
    artifact = store.put(content, suffix)
    try:
        with transaction(engine) as session:
            session.execute(
                insert(TrainingSet).values(
                    id=new_id(),
                    submitter=principal.submitter,
                    content_hash=artifact.sha256,
                    suffix=suffix,
                    objective=found.objective,
                    shape=found.shape,
                    record_count=found.record_count,
                    byte_count=len(content),
                    created_at=database_now(),
                )
            )
    except IntegrityError:  # it is there already
        pass
    query = select(TrainingSet).where(
        col(TrainingSet.submitter) == principal.submitter,
        col(TrainingSet.content_hash) == artifact.sha256,
        col(TrainingSet.suffix) == suffix,
    )
    with reading(engine) as session:
        return _view(session.execute(query).scalar_one())


def check(content: bytes, suffix: str) -> Contents:
    """Read every record of a file, for the objective that the first one speaks of.

    Raises:
        TrainingDataUnusable: records are at fault; the first MAX_FIELDS are named.
    """
    faults: list[UnusableTrainingData] = []
    count = 0
    distinct: set[TrainingRecord] = set()  # two at most, which is all that must be known
    reader: RecordReader | None = None
    try:
        for item in items_in(content, f"{SOURCE}{suffix}", SOURCE):
            reader = reader or _reader_for(item, faults)
            record = _record_of(reader, item, faults) if reader is not None else None
            if record is not None:
                count += 1
                if len(distinct) < 2:
                    distinct.add(record)
            if len(faults) >= MAX_FIELDS:  # no more are told
                break
    except UnusableTrainingData as fault:
        faults.append(fault)
    if not faults and len(distinct) < 2:
        reason = f"{len(distinct)} distinct usable records; 2 are needed"
        faults.append(UnusableTrainingData(reason, SOURCE))
    if faults or reader is None or reader.shape is None:
        raise TrainingDataUnusable(list(_fields(faults)))
    return Contents(reader.objective, reader.shape.name, count)


def _reader_for(item: Item, faults: list[UnusableTrainingData]) -> RecordReader | None:
    """For the objective of the first record that has fields at all."""
    try:
        return RecordReader(natural_objective(item))
    except UnusableTrainingData as fault:
        faults.append(fault)
        return None


def _record_of(reader: RecordReader, item: Item, faults: list[UnusableTrainingData]) -> TrainingRecord | None:
    try:
        return reader.record(item)
    except UnusableTrainingData as fault:
        faults.append(fault)
        return None


def _fields(faults: Iterable[UnusableTrainingData]) -> Iterable[ProblemField]:
    """A record of a list by its index; where the file is no JSON document, the line is in the words."""
    for fault in faults:
        where = pointer([fault.index]) if fault.index is not None else ""
        yield ProblemField(pointer=where, detail=str(fault))


def page(engine: Engine, principal: Principal, limit: int, cursor: str | None) -> TrainingSetPage:
    """Training sets, newest first, from `cursor` on."""
    query = _visible(principal)
    order = tuple_(col(TrainingSet.created_at), col(TrainingSet.id))
    if cursor is not None:
        place = cursors.decode(Place, cursor)
        query = query.where(order < tuple_(literal(place.created_at, UtcDateTime()), literal(place.id)))
    query = query.order_by(col(TrainingSet.created_at).desc(), col(TrainingSet.id).desc()).limit(limit + 1)
    with reading(engine) as session:
        items = [_view(found) for found in session.execute(query).scalars()]
    if len(items) <= limit:
        return TrainingSetPage(items=items, next_cursor=None)
    last = Place(created_at=items[limit - 1].created_at, id=items[limit - 1].id)
    return TrainingSetPage(items=items[:limit], next_cursor=cursors.encode(last))


def view(engine: Engine, principal: Principal, training_set_id: str) -> TrainingSetView:
    """One training set.

    Raises:
        TrainingSetNotFound: there is none of that id that the principal may see.
    """
    if not ID.fullmatch(training_set_id):
        raise TrainingSetNotFound(training_set_id)
    query = _visible(principal).where(col(TrainingSet.id) == training_set_id)
    with reading(engine) as session:
        found = session.execute(query).scalar_one_or_none()
        if found is None:
            raise TrainingSetNotFound(training_set_id)
        return _view(found)


def _visible(principal: Principal) -> Select[Any]:
    query = select(TrainingSet)
    return query if principal.sees_all else query.where(col(TrainingSet.submitter) == principal.submitter)


def _view(found: TrainingSet) -> TrainingSetView:
    return TrainingSetView(source=f"training_set:{found.id}", **found.model_dump(exclude={"suffix"}))
