"""The engine keeps its promises to concurrent readers and writers, on both databases."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, text, update
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlmodel import col

from shared.database import create_database_engine, database_now, reading, transaction
from shared.patience import patiently
from shared.states import AuditStatus
from shared.tables import Audit, Step
from tests.support.audits import add_audit, add_step


def count_audits(engine: Engine) -> int:
    with reading(engine) as session:
        count: int = session.execute(select(func.count()).select_from(Audit)).scalar_one()
    return count


def test_reader_does_not_wait_for_a_writer(engine: Engine) -> None:
    audit_id = add_audit(engine)
    with transaction(engine) as session, ThreadPoolExecutor(1) as pool:
        session.execute(update(Audit).values(priority=7))
        with reading(engine) as reader:
            seen = pool.submit(lambda: reader.get_one(Audit, audit_id).priority)
            assert seen.result(timeout=5) == 0


def test_reader_sees_one_state_throughout(engine: Engine) -> None:
    add_audit(engine)
    with reading(engine) as session:
        query = select(func.count()).select_from(Audit)
        before = session.execute(query).scalar_one()
        add_audit(engine)
        assert session.execute(query).scalar_one() == before


def test_writers_that_read_first_take_turns(engine: Engine) -> None:
    audit_id = add_audit(engine)

    def add_one(_: int) -> None:
        with transaction(engine) as session:
            audit = session.get_one(Audit, audit_id, with_for_update=True)
            audit.priority += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(20)))
    with reading(engine) as session:
        assert session.get_one(Audit, audit_id).priority == 20


def test_points_in_time_come_back_in_utc(engine: Engine) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=east)
    audit_id = add_audit(engine, created_at=moment)
    with reading(engine) as session:
        found = session.get_one(Audit, audit_id).created_at
    assert (found, found.tzinfo) == (moment, UTC)


def test_point_in_time_without_a_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="naive datetime"):
        add_audit(engine, created_at=datetime(2026, 1, 2))


def test_statement_that_reads_the_clock_is_compiled_once(engine: Engine) -> None:
    hits = []

    def note(*arguments: Any) -> None:
        hits.append(arguments[4].cache_hit)

    event.listen(engine, "before_cursor_execute", note)
    with reading(engine) as session:
        for offset_seconds in (1.0, 2.0):
            session.execute(select(database_now(offset_seconds)))
    assert hits[-2:] == [CacheStats.CACHE_MISS, CacheStats.CACHE_HIT]


@pytest.mark.parametrize("offset_seconds", [-3600.0, 0.0, 90.5])
def test_database_clock_is_offset_by_the_seconds_asked_for(engine: Engine, offset_seconds: float) -> None:
    with reading(engine) as session:
        now, moved = session.execute(select(database_now(), database_now(offset_seconds))).one()
    assert abs((moved - now).total_seconds() - offset_seconds) < 0.5


def test_database_refuses_a_status_that_is_none(engine: Engine) -> None:
    add_audit(engine)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("UPDATE audit SET status = 'lost'"))


def test_database_refuses_a_progress_beyond_the_whole(engine: Engine) -> None:
    step_id = add_step(engine, add_audit(engine))
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.execute(update(Step).where(col(Step.id) == step_id).values(progress=1.5))


def test_database_refuses_a_step_without_its_audit(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        add_step(engine, "no-such-audit")


def test_failed_transaction_leaves_nothing(engine: Engine) -> None:
    audit_id = add_audit(engine)

    def write_and_fail() -> None:
        with transaction(engine) as session:
            session.execute(update(Audit).values(status=AuditStatus.RUNNING))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    with reading(engine) as session:
        assert session.get_one(Audit, audit_id).status is AuditStatus.QUEUED
    assert count_audits(engine) == 1


def test_new_database_is_opened_although_another_connection_is_writing_to_it(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE something (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ("COMMIT",))
    release.start()
    engine = create_database_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    release.join()
    other.close()
    engine.dispose()


def test_process_that_stands_still_in_a_transaction_loses_it(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "20s"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "30s"
        connection.execute(text("SET idle_in_transaction_session_timeout = '50ms'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        time.sleep(0.3)
        with engine.begin() as other:  # gets the lock although the first transaction never ended
            other.execute(text("SET LOCAL lock_timeout = '1s'"))
            other.execute(text("SELECT pg_advisory_xact_lock(1)"))
        connection.invalidate()
    engine.dispose()


def test_patience_outlasts_an_outage() -> None:
    failures = [OperationalError("SELECT", {}, Exception("the server is away"))] * 2

    def work() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert patiently(work, pause_seconds=0.01) == "done"


def test_patience_ends_with_its_time() -> None:
    def work() -> None:
        raise OperationalError("SELECT", {}, Exception("the server is away"))

    with pytest.raises(OperationalError):
        patiently(work, for_seconds=0.05, pause_seconds=0.01)


def test_patience_is_for_outages_alone(engine: Engine) -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        add_audit(engine, submitter=None)

    with pytest.raises(IntegrityError):
        patiently(work)
    assert len(tries) == 1
