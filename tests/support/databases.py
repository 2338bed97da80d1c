"""A database with every table in it, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from shared.database import create_database_engine
from shared.tables import metadata
from tests.support.servers import PostgresqlServer


@pytest.fixture(scope="session")
def postgresql_tables(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """URL of a database with every table, shared by the session's tests one after another."""
    with postgresql_server.fresh_database() as url:
        engine = create_database_engine(url)
        metadata.create_all(engine)
        engine.dispose()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database whose tables are empty; the test runs once per database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'holdfast.db'}"
        engine = create_database_engine(url)
        metadata.create_all(engine)
        engine.dispose()
        yield url
        return
    url = request.getfixturevalue("postgresql_tables")
    yield url
    engine = create_database_engine(url)
    tables = ", ".join(table.name for table in metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables}"))
    engine.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine over empty tables; the test runs once per database."""
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()
