"""The whole service as processes, in both deployments."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from migrations import upgrade
from services.cli.client import HoldfastClient
from services.cli.embedded import gateway_command, listen, url_of, worker_command
from services.cli.processes import Command, Processes
from shared.settings import Settings
from tests.support.parity_audit import PARITY_GPT2

DEPLOYMENTS = ("sqlite and folders", "postgresql and redis")
READY_SECONDS = 60.0


@dataclass
class Deployment:
    """A running gateway and worker, and what it takes to start another worker."""

    client: HoldfastClient
    processes: Processes
    settings: Settings


@pytest.fixture(params=DEPLOYMENTS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of one deployment, with short leases so that recovery takes seconds."""
    clustered = request.param == "postgresql and redis"
    return Settings(
        data_directory=tmp_path,
        database_url=request.getfixturevalue("postgresql_url") if clustered else "",
        broker_url=request.getfixturevalue("redis_url") if clustered else "",
        model_roots=(PARITY_GPT2,),
        lease_seconds=6,
        heartbeat_seconds=1,
        reconcile_seconds=0.5,
        cancel_grace_seconds=2,
        cancel_deadline_seconds=20,
        checkpoint_seconds=0.2,
        threads=1,
    )


@pytest.fixture
def deployment(settings: Settings) -> Iterator[Deployment]:
    """Start gateway and worker on a free loopback port, and stop them."""
    upgrade(settings.resolved_database_url)
    processes = Processes(settings.data_directory, environment(settings), grace_seconds=10)
    with listen("127.0.0.1", 0) as listener, HoldfastClient(url_of(listener)) as client:
        fd = listener.fileno()
        processes.start(Command("gateway", gateway_command(fd), fds=(fd,)))
        processes.start(Command("worker", worker_command()))
        try:
            wait_until_ready(client, processes)
            yield Deployment(client, processes, settings)
        finally:
            processes.stop()


def environment(settings: Settings) -> dict[str, str]:
    """What the processes see of `settings`."""
    values = {
        "HOLDFAST_DATA_DIRECTORY": str(settings.data_directory),
        "HOLDFAST_DATABASE_URL": settings.database_url,
        "HOLDFAST_BROKER_URL": settings.broker_url,
        "HOLDFAST_MODEL_ROOTS": json.dumps([str(root) for root in settings.model_roots]),
        **{
            f"HOLDFAST_{name.upper()}": str(getattr(settings, name))
            for name in (
                "lease_seconds",
                "heartbeat_seconds",
                "reconcile_seconds",
                "cancel_grace_seconds",
                "cancel_deadline_seconds",
                "checkpoint_seconds",
                "threads",
            )
        },
    }
    return {**os.environ, **values, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def wait_until_ready(client: HoldfastClient, processes: Processes) -> None:
    """Return when the gateway says that all it needs is there."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        processes.check()
        try:
            if httpx.get(f"{client.url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the gateway did not become ready"
        time.sleep(0.1)
