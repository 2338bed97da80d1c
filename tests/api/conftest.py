"""Fixtures of this directory: the gateway over an empty database, with a broker that only listens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

import migrations
from services.api.app import create_app
from services.api.examples import SMALL_REQUEST
from services.api.relay import Send
from services.api.submissions import ModelInspector, inspect
from shared.database import create_database_engine
from shared.settings import Settings
from tests.support.databases import database_url, engine, postgresql_tables

__all__ = ["database_url", "engine", "postgresql_tables"]


class MakeClient(Protocol):
    """Starts a gateway; its settings can differ from the default."""

    def __call__(
        self, *, send: Send | None = None, inspector: ModelInspector = inspect, **settings: Any
    ) -> TestClient: ...


@pytest.fixture
def sent() -> list[str]:
    """The audits that the broker was told of."""
    return []


def client_factory(url: str, directory: Path, sent: list[str], stack: ExitStack) -> MakeClient:
    def make(*, send: Send | None = None, inspector: ModelInspector = inspect, **changes: Any) -> TestClient:
        values = {"data_directory": directory, "database_url": url, "reconcile_seconds": 60.0}
        settings = Settings(**{**values, **changes})
        app = create_app(
            settings, send=send or (lambda _, audit_id: sent.append(audit_id)), inspector=inspector
        )
        return stack.enter_context(TestClient(app, raise_server_exceptions=False))

    return make


@pytest.fixture
def make_client(database_url: str, tmp_path: Path, sent: list[str]) -> Iterator[MakeClient]:
    """Starts gateways over the database under test; the test runs once per kind of database."""
    with ExitStack() as stack:
        yield client_factory(database_url, tmp_path, sent, stack)


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    """A gateway; the test runs once per kind of database."""
    return make_client()


@pytest.fixture
def make_embedded(tmp_path: Path, sent: list[str]) -> Iterator[MakeClient]:
    """Starts gateways over SQLite, migrated as `holdfast serve` does."""
    url = Settings(data_directory=tmp_path).resolved_database_url
    migrations.upgrade(url)
    with ExitStack() as stack:
        yield client_factory(url, tmp_path, sent, stack)


@pytest.fixture
def embedded(make_embedded: MakeClient) -> TestClient:
    """A gateway over SQLite, where the kind of database does not matter."""
    return make_embedded()


@pytest.fixture
def embedded_engine(embedded: TestClient, tmp_path: Path) -> Iterator[Engine]:
    """An engine over the database of `embedded`."""
    engine = create_database_engine(Settings(data_directory=tmp_path).resolved_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def request_body() -> dict[str, Any]:
    """A small valid request, the test's own to change."""
    return copy.deepcopy(SMALL_REQUEST)


@pytest.fixture
def submit(client: TestClient, request_body: dict[str, Any]) -> Callable[..., str]:
    """Submits the small request with changes; the audit's id."""

    def post(**changes: Any) -> str:
        response = client.post("/audits", json={**request_body, **changes})
        assert response.status_code == 202, response.text
        audit_id: str = response.json()["id"]
        return audit_id

    return post
