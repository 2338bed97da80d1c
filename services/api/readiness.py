"""Whether the service can do its work: the database at its newest schema, the artifact store there."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Engine

from migrations import is_at_head
from shared.artifacts import ArtifactStore
from shared.views import Health

log = logging.getLogger(__name__)

OK = "ok"


def readiness(engine: Engine, store: ArtifactStore) -> Health:
    """What each check says; `status` is `ready` when all are ok."""
    checks = {"database": _outcome(lambda: _database(engine)), "artifacts": _outcome(lambda: _store(store))}
    ready = all(outcome == OK for outcome in checks.values())
    return Health(status="ready" if ready else "not ready", checks=checks)


def _database(engine: Engine) -> str:
    with engine.execution_options(only_reads=True).connect() as connection:
        return OK if is_at_head(connection) else "not migrated; run 'python -m migrations'"


def _store(store: ArtifactStore) -> str:
    store.check()
    return OK


def _outcome(check: Callable[[], str]) -> str:
    """The reason goes to the log alone: it may hold addresses and names."""
    try:
        return check()
    except Exception:  # whatever a driver or a file system raises, the answer is the same
        log.warning("a readiness check failed", exc_info=True)
        return "unreachable"
