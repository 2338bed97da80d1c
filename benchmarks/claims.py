"""Does taking work stay as fast when finished audits pile up? `python -m benchmarks.claims`

On SQLite and PostgreSQL: the median time of a claim, and of the gateway's rounds over what was lost, with
an empty history and with `--finished` audits (100,000) of 6 steps each behind it, and their ratio. Some
`--waiting` audits (1,000) are there in both cases.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, insert, select, text
from sqlmodel import col

from migrations import upgrade
from shared.claims import claim
from shared.database import create_database_engine, reading
from shared.leases import Lease, fenced
from shared.outbox import relay, repeat_unheard_wake_ups
from shared.queue_order import queue_position
from shared.recovery import (
    expire_overdue,
    finish_cancels,
    hand_over,
    reap_expired,
)
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import Attempt, Audit, EditSet, Event, OutboxMessage, Step, new_id
from tests.support.servers import installed_postgresql, packaged_postgresql, running_postgresql

ROUNDS = 60
STEPS_PER_AUDIT = 6
BATCH = 2_000
NOW = datetime.now(UTC)


def main() -> None:
    """Measure both databases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finished", type=int, default=100_000)
    parser.add_argument("--waiting", type=int, default=1_000)
    arguments = parser.parse_args()
    print(f"{'':12}{'':22}{'empty history':>16}{f'{arguments.finished:,} finished':>20}{'ratio':>8}")
    for name, database in {"SQLite": sqlite, "PostgreSQL": postgresql}.items():
        with database() as engine:
            add_audits(engine, arguments.waiting, AuditStatus.QUEUED)
            before = measure(engine)
            add_audits(engine, arguments.finished, AuditStatus.SUCCEEDED)
            analyse(engine)
            after = measure(engine)
        for what in before:
            ratio = after[what] / before[what]
            print(f"{name:12}{what:22}{before[what]:13.2f} ms{after[what]:17.2f} ms{ratio:8.2f}")


@contextmanager
def sqlite() -> Iterator[Engine]:
    """A migrated database in a file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        migrated(f"sqlite:///{Path(folder) / 'holdfast.db'}") as engine,
    ):
        yield engine


@contextmanager
def postgresql() -> Iterator[Engine]:
    """A migrated database on a private server."""
    binaries = installed_postgresql() or packaged_postgresql()
    assert binaries, "PostgreSQL is not installed"
    with running_postgresql(binaries) as server, server.fresh_database() as url, migrated(url) as engine:
        yield engine


@contextmanager
def migrated(url: str) -> Iterator[Engine]:
    upgrade(url)
    engine = create_database_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def measure(engine: Engine) -> dict[str, float]:
    """Median milliseconds of each thing that happens again and again."""
    waiting = claim_ids(engine)
    return {
        "claim": median_ms(lambda: claim(engine, "worker", 60, "c" * 64), lambda: give_back(engine)),
        "reap": median_ms(lambda: reap_expired(engine, 3)),
        "expire and cancel": median_ms(lambda: (expire_overdue(engine), finish_cancels(engine, 25))),
        "repeat wake-ups": median_ms(lambda: repeat_unheard_wake_ups(engine, 10)),
        "relay (nothing)": median_ms(lambda: relay(engine, lambda kind, audit_id: None)),
        "queue position": median_ms(lambda: position(engine, waiting)),
    }


def claim_ids(engine: Engine) -> str:
    with reading(engine) as session:
        return str(session.execute(text("SELECT id FROM audit WHERE status = 'queued'")).scalars().first())


def position(engine: Engine, audit_id: str) -> None:
    with reading(engine) as session:
        queue_position(session, audit_id)


def give_back(engine: Engine) -> None:
    """Undo the claim, so that the next one finds the same queue."""
    with reading(engine) as session:
        attempt = session.execute(select(Attempt).where(col(Attempt.ended_at).is_(None))).scalar_one()
    lease = Lease(attempt.audit_id, attempt.id, attempt.lease_token, seconds=60)
    with fenced(engine, lease) as session:
        hand_over(session, lease, "benchmark")


def median_ms(work: Callable[[], Any], afterwards: Callable[[], None] | None = None) -> float:
    """The median over `ROUNDS` repetitions, in milliseconds; what is done `afterwards` is not counted."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
        if afterwards is not None:
            afterwards()
    return statistics.median(times)


def add_audits(engine: Engine, count: int, status: AuditStatus) -> None:
    """Write audits with their steps, attempts, events and wake-ups, as the service leaves them."""
    edits = EditSet(content_hash=new_id(), edit_count=0, edits=[], created_at=NOW)
    edit_set_id = edits.id
    with engine.begin() as connection:
        connection.execute(insert(EditSet).values(edits.model_dump()))
    for start in range(0, count, BATCH):
        rows: dict[Any, list[dict[str, Any]]] = {
            table: [] for table in (Audit, Step, Attempt, Event, OutboxMessage)
        }
        for number in range(start, min(start + BATCH, count)):
            add_rows(rows, number, status, edit_set_id)
        with engine.begin() as connection:
            for table, values in rows.items():
                if values:
                    connection.execute(insert(table), values)


def add_rows(
    rows: dict[Any, list[dict[str, Any]]], number: int, status: AuditStatus, edit_set_id: str
) -> None:
    """One audit; a queued one has a step to be taken, a finished one has been through six."""
    ended = status.is_terminal
    audit = Audit(
        submitter=f"team-{number % 20}",
        request_hash="0" * 64,
        request={},
        edit_set_id=edit_set_id,
        model_reference="builtin:almanac",
        status=status,
        event_count=1,
        created_at=NOW - timedelta(seconds=number),
        expires_at=NOW + timedelta(days=7),
        finished_at=NOW if ended else None,
    )
    rows[Audit].append(audit.model_dump())
    for position in range(STEPS_PER_AUDIT if ended else 1):
        step = Step(
            audit_id=audit.id,
            position=position,
            kind=StepKind.TUNE if position else StepKind.PLAN,
            title=f"step {position}",
            key=new_id(),
            status=StepStatus.SUCCEEDED if ended else StepStatus.PENDING,
            ready_at=None if ended else NOW,
        )
        rows[Step].append(step.model_dump())
    if ended:
        attempt = Attempt(
            audit_id=audit.id,
            number=1,
            worker="worker",
            lease_token=new_id(),
            lease_expires_at=NOW,
            started_at=NOW,
            ended_at=NOW,
        )
        rows[Attempt].append(attempt.model_dump())
    rows[Event].append(Event(audit_id=audit.id, sequence=1, at=NOW, kind="audit.submitted").model_dump())
    rows[OutboxMessage].append(
        OutboxMessage(
            kind="wake_up", audit_id=audit.id, created_at=NOW, sent_at=NOW, sent_count=1
        ).model_dump()
    )


def analyse(engine: Engine) -> None:
    """Let PostgreSQL learn what it holds, as its autovacuum does on its own."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


if __name__ == "__main__":
    main()
