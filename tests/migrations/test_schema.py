"""The migrations lead to exactly the tables that the code is written for, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError

import migrations
from shared.database import create_database_engine
from shared.tables import metadata

STEP_BEFORE_THE_UPGRADE = (
    "INSERT INTO step (id, audit_id, position, kind, title, key, needs, inputs, status, deaths, progress)"
    " VALUES ('{}', 'audit', {}, '{}', 'step', '{}', '{}', '{{}}', '{}', 0, 0)"
)
AUDIT_BEFORE_THE_UPGRADE = (
    "INSERT INTO edit_set (id, content_hash, edit_count, edits, created_at)"
    " VALUES ('edits', 'hash', 1, '[]', '2026-01-01 00:00:00')",
    "INSERT INTO audit (id, submitter, request_hash, request, edit_set_id, model_reference, labels, priority,"
    " status, event_count, created_at) VALUES ('audit', 'someone', 'hash', '{}', 'edits', 'builtin:almanac',"
    " '{}', 0, 'queued', 0, '2026-01-01 00:00:00')",
    STEP_BEFORE_THE_UPGRADE.format("base", 1, "base", "k1", "[]", "succeeded"),
    STEP_BEFORE_THE_UPGRADE.format("edit", 2, "edit", "k2", '["base"]', "pending"),
    STEP_BEFORE_THE_UPGRADE.format("was-running", 3, "edit", "k3", '["base"]', "running"),
    STEP_BEFORE_THE_UPGRADE.format("tune", 4, "tune", "k4", '["base", "edit"]', "pending"),
    STEP_BEFORE_THE_UPGRADE.format("analyse", 5, "analyse", "k5", '["base", "tune"]', "pending"),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new-directory' / 'holdfast.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@contextmanager
def stored_under(revision: str, database_url: str, *more: str) -> Iterator[Engine]:
    """A database of an older revision with an audit in it; more: statements that store what else there is."""
    migrations.upgrade(database_url, revision)
    engine = create_database_engine(database_url)
    with engine.begin() as connection:
        for statement in (*AUDIT_BEFORE_THE_UPGRADE, *more):
            connection.execute(text(statement))
    yield engine
    engine.dispose()


@pytest.fixture
def upgraded(database_url: str) -> Iterator[Engine]:
    migrations.upgrade(database_url)
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


def test_upgraded_database_has_the_tables_of_the_models(upgraded: Engine) -> None:
    with upgraded.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_upgraded_database_has_the_constraints_and_indexes_of_the_models(upgraded: Engine) -> None:
    from_migrations = schema(upgraded)
    with upgraded.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert from_migrations == schema(upgraded)


def test_check_constraints_are_part_of_the_comparison(upgraded: Engine) -> None:
    names = {check["name"] for check in inspect(upgraded).get_check_constraints("audit")}
    assert names == {"ck_audit_auditstatus", "ck_audit_verdict", "ck_audit_cause"}


def test_upgrade_lets_workers_take_the_waiting_steps_whose_needs_are_met(database_url: str) -> None:
    with stored_under("0001", database_url) as engine:
        migrations.upgrade(database_url)
        with engine.connect() as connection:
            ready = connection.execute(text("SELECT id FROM step WHERE ready_at IS NOT NULL ORDER BY id"))
            assert list(ready.scalars()) == ["edit", "was-running"]


def test_kinds_of_steps_change_without_touching_what_is_stored(database_url: str) -> None:
    with stored_under("0001", database_url) as engine:
        migrations.upgrade(database_url)
        with engine.begin() as connection:
            prepare = STEP_BEFORE_THE_UPGRADE.format("prepare", 6, "prepare", "k6", "[]", "pending")
            connection.execute(text(prepare))
        with engine.begin() as connection, pytest.raises(IntegrityError, match="stepkind"):
            connection.execute(text(STEP_BEFORE_THE_UPGRADE.format("odd", 7, "odd", "k7", "[]", "pending")))
        migrations.downgrade(database_url, "0002")
        with engine.begin() as connection, pytest.raises(IntegrityError, match="stepkind"):
            connection.execute(
                text(STEP_BEFORE_THE_UPGRADE.format("late", 8, "prepare", "k8", "[]", "pending"))
            )
        with engine.connect() as connection:
            kinds = {row.id: row.kind for row in connection.execute(text("SELECT id, kind FROM step"))}
        assert kinds == {
            "base": "base",
            "edit": "edit",
            "was-running": "edit",
            "tune": "tune",
            "analyse": "analyse",
            "prepare": "edit",
        }


PROBE_BEFORE_THE_UPGRADE = (
    "INSERT INTO probe_row (step_id, arm, tuning_step, fact_id, fact_kind, probe_kind, probe_index, prompt,"
    " answer, first_token, exact, log_prob_answer, predicted_token) VALUES"
    " ('base', 'base', 0, 'edit:0', 'edit', '{}', 0, 'prompt', 'answer', TRUE, TRUE, -1.0, 'answer')"
)


def test_kinds_of_probes_change_and_old_scores_stay(database_url: str) -> None:
    with stored_under("0003", database_url, PROBE_BEFORE_THE_UPGRADE.format("rewrite")) as engine:
        migrations.upgrade(database_url)
        with engine.begin() as connection:
            connection.execute(text(PROBE_BEFORE_THE_UPGRADE.format("distracted")))
        with engine.begin() as connection, pytest.raises(IntegrityError, match="probekind"):
            connection.execute(text(PROBE_BEFORE_THE_UPGRADE.format("odd")))
        migrations.downgrade(database_url, "0003")
        with engine.begin() as connection, pytest.raises(IntegrityError, match="probekind"):
            connection.execute(text(PROBE_BEFORE_THE_UPGRADE.format("distracted")))
        with engine.connect() as connection:
            assert connection.execute(text("SELECT probe_kind FROM probe_row")).scalars().all() == ["rewrite"]


def test_what_older_code_has_no_word_for_does_not_outlive_a_downgrade(database_url: str) -> None:
    with stored_under("0001", database_url) as engine:
        migrations.upgrade(database_url, "0005")
        row = (
            "INSERT INTO probe_row (step_id, arm, tuning_step, fact_id, fact_kind, probe_kind, probe_index,"
            " prompt, answer, first_token, exact, log_prob_answer, predicted_token)"
            " VALUES ('edit', '{}', 0, 'f', 'edit', 'rewrite', 0, 'p', 'a', {no}, {no}, 0, 't')"
        )
        no = "0" if engine.dialect.name == "sqlite" else "false"
        with engine.begin() as connection:
            for place, kind in enumerate(("stress", "probe"), start=6):
                connection.execute(
                    text(STEP_BEFORE_THE_UPGRADE.format(kind, place, kind, f"k{place}", "[]", "pending"))
                )
            for arm in ("edited", "base→stressed", "edited→stressed"):
                connection.execute(text(row.format(arm, no=no)))
        migrations.downgrade(database_url, "0004")
        with engine.connect() as connection:
            kinds = connection.execute(text("SELECT DISTINCT kind FROM step ORDER BY kind")).scalars().all()
            arms = connection.execute(text("SELECT arm FROM probe_row")).scalars().all()
        assert (kinds, arms) == (["analyse", "base", "edit", "tune"], ["edited"])


def test_downgrade_to_base_leaves_no_table(database_url: str, upgraded: Engine) -> None:
    upgraded.dispose()
    migrations.downgrade(database_url, "base")
    assert inspect(upgraded).get_table_names() == ["alembic_version"]


def test_downgraded_database_can_be_upgraded_again(database_url: str, upgraded: Engine) -> None:
    upgraded.dispose()
    migrations.downgrade(database_url, "base")
    migrations.upgrade(database_url)
    with upgraded.connect() as connection:
        assert migrations.is_at_head(connection)


def test_upgrade_of_an_upgraded_database_changes_nothing(database_url: str, upgraded: Engine) -> None:
    before = schema(upgraded)
    migrations.upgrade(database_url)
    assert schema(upgraded) == before


def test_empty_database_is_not_at_head(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "new-directory").mkdir()
    engine = create_database_engine(database_url)
    with engine.connect() as connection:
        assert not migrations.is_at_head(connection)
    engine.dispose()


def test_processes_that_upgrade_at_once_take_turns(database_url: str) -> None:
    command = [sys.executable, "-m", "migrations"]
    environment = {**os.environ, "HOLDFAST_DATABASE_URL": database_url}
    together = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in together] == [0, 0]


def schema(engine: Engine) -> dict[str, Any]:
    """Everything that reflection tells of each table, in an order of its own."""
    inspector = inspect(engine)
    return {
        table: {
            "columns": sorted(
                (column["name"], str(column["type"]), column["nullable"], str(column["default"]))
                for column in inspector.get_columns(table)
            ),
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": by_name(inspector.get_foreign_keys(table)),
            "unique": by_name(inspector.get_unique_constraints(table)),
            "checks": by_name(inspector.get_check_constraints(table)),
            "indexes": by_name(inspector.get_indexes(table)),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def by_name(items: list[Any]) -> list[Any]:
    return sorted(
        ({field: _comparable(value) for field, value in item.items()} for item in items),
        key=lambda item: str(item["name"]),
    )


def _comparable(value: Any) -> Any:
    """The conditions of partial indexes are clauses, which are equal only to themselves."""
    if isinstance(value, dict):
        return {name: str(inner) for name, inner in value.items()}
    return value
