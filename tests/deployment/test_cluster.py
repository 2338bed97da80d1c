"""The commands and health checks of the compose file, run as they stand on private stores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deployment.compose import CLUSTER, ROOT, load

WAIT_SECONDS = 90.0


@dataclass(frozen=True)
class Cluster:
    """The compose file's services as processes of this machine."""

    directory: Path
    database_url: str
    broker_url: str
    port: int

    def command(self, name: str) -> list[str]:
        """The service's command with our interpreter and port in place of the container's."""
        return self._here(load(CLUSTER)["services"][name]["command"])

    def is_healthy(self, name: str) -> bool:
        """What the service's health check says."""
        check = load(CLUSTER)["services"][name]["healthcheck"]["test"]
        assert check[0] == "CMD"
        command = self._here(check[1:])
        result = subprocess.run(
            command, cwd=ROOT, env=self.environment(name), capture_output=True, check=False
        )
        return result.returncode == 0

    def environment(self, name: str) -> dict[str, str]:
        """The service's environment, with this machine's places."""
        stated = load(CLUSTER)["services"][name]["environment"]
        places = {
            "HOLDFAST_DATA_DIRECTORY": str(self.directory / name),
            "HOLDFAST_DATABASE_URL": self.database_url,
            "HOLDFAST_BROKER_URL": self.broker_url,
            "HOLDFAST_ARTIFACTS_URL": (self.directory / "artifacts").as_uri(),
        }
        assert places.keys() <= stated.keys()
        return os.environ | {key: value for key, value in stated.items() if value is not None} | places

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """The service, until it is healthy and as long as the block lasts."""
        log = (self.directory / f"{name}.log").open("wb")
        process = subprocess.Popen(
            self.command(name), cwd=ROOT, env=self.environment(name), stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not self.is_healthy(name):
                ended_or_late = process.poll() is not None or time.monotonic() > deadline
                assert not ended_or_late, Path(log.name).read_text()
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()
            log.close()

    def _here(self, words: list[str]) -> list[str]:
        words = [word.replace("8000", str(self.port)).replace("0.0.0.0", "127.0.0.1") for word in words]  # noqa: S104
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]


@pytest.fixture
def cluster(tmp_path: Path, postgresql_url: str, redis_url: str) -> Cluster:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Cluster(tmp_path, postgresql_url, redis_url, probe.getsockname()[1])


def migrate(cluster: Cluster) -> int:
    command, environment = cluster.command("migrate"), cluster.environment("migrate")
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def test_gateway_becomes_healthy_on_a_migrated_database(cluster: Cluster) -> None:
    assert migrate(cluster) == 0
    with cluster.running("gateway"):
        assert cluster.is_healthy("gateway")


def test_worker_becomes_healthy(cluster: Cluster) -> None:
    assert migrate(cluster) == 0
    with cluster.running("worker"):
        assert cluster.is_healthy("worker")


def test_migrating_again_changes_nothing(cluster: Cluster) -> None:
    assert (migrate(cluster), migrate(cluster)) == (0, 0)


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_service_that_does_not_run_is_not_healthy(cluster: Cluster, name: str) -> None:
    assert not cluster.is_healthy(name)
