"""Every probe's score of an audit: a row per fact, arm and mode, in pages or as one CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy import Engine, Select, func, literal, select, tuple_
from sqlmodel import col

from services.api import audits, cursors
from services.api.authentication import Principal
from shared.database import reading
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.states import StepStatus
from shared.tables import ProbeRow, Step
from shared.views import ResultPage, ResultRow

ROWS_AT_ONCE = 1_000
MODES = tuple(Mode)
COLUMNS = tuple(ResultRow.model_fields)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Place(BaseModel):
    """Where a page of results ended: a probe row of a step, and how many of its modes were shown."""

    position: Count
    tuning_step: Count
    row: Annotated[int, Field(ge=0, lt=2**63)]
    modes_shown: Annotated[int, Field(ge=1, le=len(MODES))]


@dataclass(frozen=True)
class ResultFilter:
    """Which rows to show; None selects all. `every_step` adds the probes while tuning went on."""

    arm: Arm | None = None
    mode: Mode | None = None
    fact_kind: FactKind | None = None
    probe_kind: ProbeKind | None = None
    editor: str | None = None
    recipe: str | None = None
    stressor: str | None = None
    seed: int | None = None
    every_step: bool = False


def page(
    engine: Engine, principal: Principal, audit_id: str, wanted: ResultFilter, limit: int, cursor: str | None
) -> ResultPage:
    """Rows from `cursor` on, ordered by step, tuning step and probe.

    Raises:
        AuditNotFound: there is no such audit that the principal may see.
    """
    steps = measured_steps(engine, principal, audit_id, wanted)
    start = cursors.decode(Place, cursor) if cursor else None
    items: list[ResultRow] = []
    last: Place | None = None
    for place, row in _placed_rows(engine, steps, wanted, start, limit + 1):
        if len(items) == limit:
            return ResultPage(items=items, next_cursor=cursors.encode(last) if last else None)
        items.append(row)
        last = place
    return ResultPage(items=items, next_cursor=None)


def csv_lines(engine: Engine, steps: Sequence[Step], wanted: ResultFilter) -> Iterator[str]:
    """All rows as CSV with a header, a piece at a time; no transaction outlives a piece."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for count, (_, row) in enumerate(_placed_rows(engine, steps, wanted, None, ROWS_AT_ONCE), start=1):
        writer.writerow([neutralised(value) for value in row.model_dump(mode="json").values()])
        if count % ROWS_AT_ONCE == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def neutralised(value: object) -> object:
    """Text that a spreadsheet would take for a formula, made text again by an apostrophe."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def measured_steps(engine: Engine, principal: Principal, audit_id: str, wanted: ResultFilter) -> list[Step]:
    """The audit's steps that have scores to show, in order.

    Raises:
        AuditNotFound: there is no such audit that the principal may see.
    """
    with reading(engine) as session:
        audits.find(session, principal, audit_id)
        query = select(Step).where(
            col(Step.audit_id) == audit_id,
            col(Step.status) == StepStatus.SUCCEEDED,
            col(Step.source_step_id).is_not(None),
        )
        steps = session.execute(query.order_by(col(Step.position))).scalars().all()
    axes = {
        "editor": wanted.editor,
        "recipe": wanted.recipe,
        "stressor": wanted.stressor,
        "seed": wanted.seed,
    }
    return [
        step
        for step in steps
        if all(value is None or step.inputs.get(axis) == value for axis, value in axes.items())
    ]


def _placed_rows(
    engine: Engine, steps: Sequence[Step], wanted: ResultFilter, start: Place | None, at_once: int
) -> Iterator[tuple[Place, ResultRow]]:
    """The rows after `start`, each with its place."""
    for step in steps:
        if start is not None and step.position < start.position:
            continue
        resumed = start if start is not None and step.position == start.position else None
        for probe in _probe_rows(engine, step, wanted, resumed, at_once):
            same = resumed is not None and (probe.tuning_step, probe.id) == (resumed.tuning_step, resumed.row)
            shown = resumed.modes_shown if resumed is not None and same else 0
            for number, mode in list(enumerate(MODES, start=1))[shown:]:
                if wanted.mode in {None, mode}:
                    place = Place(
                        position=step.position,
                        tuning_step=probe.tuning_step,
                        row=probe.id or 0,
                        modes_shown=number,
                    )
                    yield place, _result_row(step, probe, mode)


def _probe_rows(
    engine: Engine, step: Step, wanted: ResultFilter, start: Place | None, at_once: int
) -> Iterator[ProbeRow]:
    """Probe rows of one step from `start` on, that one included, fetched `at_once` at a time."""
    order = tuple_(col(ProbeRow.tuning_step), col(ProbeRow.id))
    query = _selected(step, wanted).order_by(col(ProbeRow.tuning_step), col(ProbeRow.id)).limit(at_once)
    condition = None
    if start is not None:
        condition = order >= tuple_(literal(start.tuning_step), literal(start.row))
    while True:
        with reading(engine) as session:
            rows = session.execute(query if condition is None else query.where(condition)).scalars().all()
        yield from rows
        if len(rows) < at_once:
            return
        condition = order > tuple_(literal(rows[-1].tuning_step), literal(rows[-1].id))


def _selected(step: Step, wanted: ResultFilter) -> Select[Any]:
    query = select(ProbeRow).where(col(ProbeRow.step_id) == step.source_step_id)
    for column, value in (
        (col(ProbeRow.arm), wanted.arm),
        (col(ProbeRow.fact_kind), wanted.fact_kind),
        (col(ProbeRow.probe_kind), wanted.probe_kind),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.every_step:
        return query
    final = select(func.max(col(ProbeRow.tuning_step))).where(col(ProbeRow.step_id) == step.source_step_id)
    return query.where(col(ProbeRow.tuning_step) == final.scalar_subquery())


def _result_row(step: Step, probe: ProbeRow, mode: Mode) -> ResultRow:
    right: dict[Mode, Any] = {
        Mode.FIRST_TOKEN: probe.first_token,
        Mode.EXACT: probe.exact,
        Mode.CONTAINS: probe.contains,
        Mode.PREFERENCE: probe.preference,
    }
    axes = {
        axis: step.inputs.get(axis)
        for axis in ("editor", "paraphrases", "recipe", "freeze", "stressor", "seed")
    }
    scores = probe.model_dump(include=set(ResultRow.model_fields))
    frozen = step.inputs.get("frozen_blocks")
    blocks = None if frozen is None else " ".join(map(str, frozen))
    return ResultRow(**axes, **scores, frozen_blocks=blocks, mode=mode, right=right[mode])
