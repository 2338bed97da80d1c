"""The service as a chaos run sees it: a gateway and workers on servers of its own, recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from celery import Celery
from sqlalchemy import Engine

from migrations import upgrade
from services.cli.embedded import gateway_command, listen, url_of, worker_command
from shared.broker import create_celery
from shared.database import create_database_engine
from shared.settings import Settings
from tests.chaos import instrumentation, recorder
from tests.chaos.members import Member
from tests.support.parity_audit import PARITY_GPT2
from tests.support.servers import (
    Kept,
    PostgresqlServer,
    RedisServer,
    installed_postgresql,
    installed_redis,
    packaged_postgresql,
    packaged_redis,
    running_postgresql,
    running_redis,
)

ROOT = Path(__file__).parents[2]
WORKERS = 2
STORE_BYTES = 256 * 2**20
READY_SECONDS = 90.0
TOKENS = {name: f"token-of-{name}" for name in ("ada", "grace", "mary")}
TEMPERAMENT: dict[str, Any] = {
    "lease_seconds": 5,
    "heartbeat_seconds": 1,
    "reconcile_seconds": 0.5,
    "cancel_grace_seconds": 2,
    "cancel_deadline_seconds": 15,
    "handover_seconds": 8,
    "retry_wait_seconds": 0.5,
    "turn_seconds": 5,
    "checkpoint_seconds": 0.3,
    "max_step_attempts": 50,  # the run is about faults, not about steps that kill their workers
    "threads": 1,
}


@dataclass(frozen=True)
class Servers:
    """What a deployment stands on; both are None where files do."""

    postgresql: PostgresqlServer | None = None
    redis: RedisServer | None = None


@dataclass
class Deployment:
    """A running gateway and workers. `database` and `broker` can be stopped where they are servers."""

    kind: str
    directory: Path
    settings: Settings
    url: str
    engine: Engine
    gateway: Member
    workers: list[Member]
    servers: Servers
    resting: set[str] = field(default_factory=set)  # members that are not to be started now

    @property
    def database(self) -> Kept | None:
        """The database's server."""
        return self.servers.postgresql.kept if self.servers.postgresql else None

    @property
    def store(self) -> Path:
        """Where artifacts are."""
        return self.directory / "store" / "artifacts"

    @property
    def store_is_limited(self) -> bool:
        """Whether the artifact store is a file system of its own, which can be filled."""
        return self.store.parent.is_mount()

    @property
    def worker_names(self) -> list[str]:
        """What attempts call the workers that run now."""
        return [worker.worker_name for worker in self.workers]

    def celery(self) -> Celery:
        """What wake-ups can be sent through."""
        return create_celery(self.settings)

    def keep(self) -> None:
        """Start again what has ended, as an operator's process manager does."""
        for member in (self.gateway, *self.workers):
            if member.name not in self.resting:
                member.start()

    def wait_until_ready(self) -> None:
        """Return when the gateway says that all it needs is there."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False, timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the gateway did not become ready; see {self.gateway.directory}")


@contextmanager
def servers_of(kind: str) -> Iterator[Servers]:
    """The servers that a kind of deployment needs."""
    if kind == "sqlite":
        yield Servers()
        return
    postgresql, redis = installed_postgresql() or packaged_postgresql(), installed_redis() or packaged_redis()
    assert postgresql, "PostgreSQL is not installed"
    assert redis, "Redis is not installed"
    with (
        running_postgresql(postgresql, synchronous_commit="on") as database,
        running_redis(redis) as broker,
    ):
        yield Servers(database, broker)


@contextmanager
def running_deployment(kind: str, directory: Path, servers: Servers, workers: int) -> Iterator[Deployment]:
    """A deployment on an empty database, recorded from its first row; on return nothing of it runs."""
    with ExitStack() as resources:
        database_url = f"sqlite:///{directory / 'holdfast.db'}"
        if servers.postgresql:
            database_url = resources.enter_context(servers.postgresql.fresh_database())
        settings = Settings(
            data_directory=directory,
            database_url=database_url,
            broker_url=servers.redis.url if servers.redis else "",
            artifacts_url=(directory / "store" / "artifacts").as_uri(),
            model_roots=(PARITY_GPT2,),
            tokens=TOKENS,
            **TEMPERAMENT,
        )
        if servers.redis:
            servers.redis.flush()
        resources.enter_context(_limited_space(directory / "store"))
        upgrade(database_url)
        engine = create_database_engine(database_url)
        resources.callback(engine.dispose)
        recorder.install(engine)
        listener = resources.enter_context(listen("127.0.0.1", 0))
        environment = _environment(settings)
        fd = listener.fileno()
        gateway = Member("gateway", gateway_command(fd), environment, directory / "gateway", fds=(fd,))
        deployment = Deployment(
            kind=kind,
            directory=directory,
            settings=settings,
            url=url_of(listener),
            engine=engine,
            gateway=gateway,
            workers=[_worker(number, directory, environment) for number in range(1, workers + 1)],
            servers=servers,
        )
        for member in (gateway, *deployment.workers):
            resources.callback(member.stop)
        deployment.keep()
        deployment.wait_until_ready()
        yield deployment


def _environment(settings: Settings) -> dict[str, str]:
    """What gateway and workers see."""
    values = {
        "HOLDFAST_DATA_DIRECTORY": str(settings.data_directory),
        "HOLDFAST_DATABASE_URL": settings.database_url,
        "HOLDFAST_BROKER_URL": settings.broker_url,
        "HOLDFAST_ARTIFACTS_URL": settings.artifacts_url,
        "HOLDFAST_MODEL_ROOTS": json.dumps([str(root) for root in settings.model_roots]),
        "HOLDFAST_TOKENS": json.dumps(TOKENS),
        **{f"HOLDFAST_{name.upper()}": str(value) for name, value in TEMPERAMENT.items()},
        "PYTHONPATH": f"{Path(instrumentation.__file__).parent}:{ROOT}",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {**os.environ, **values}


def _worker(number: int, directory: Path, environment: dict[str, str]) -> Member:
    """A worker with a data directory of its own; a broker made of folders it shares with the rest."""
    name = f"worker-{number}"
    home = directory / name
    home.mkdir(parents=True)
    (directory / "broker").mkdir(exist_ok=True)
    (home / "broker").symlink_to(directory / "broker")
    return Member(name, worker_command(), {**environment, "HOLDFAST_DATA_DIRECTORY": str(home)}, home)


@contextmanager
def _limited_space(directory: Path) -> Iterator[None]:
    """A small file system in memory at `directory`, where we may mount one; else a plain directory."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=False)
