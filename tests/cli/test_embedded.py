from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from services.cli.embedded import EmbeddedService, listen, service_environment, url_of
from services.cli.errors import DataDirectoryInUse, HoldfastError, ServiceEnded
from services.cli.signals import StopSignals
from shared.broker import create_celery
from shared.settings import Settings
from tests.cli import stand_ins

PATIENCE_SECONDS = 60.0


def test_service_is_ready_inside_its_context(tmp_path: Path) -> None:
    with stand_ins.embedded_service(tmp_path, StopSignals()) as service:
        assert httpx.get(f"{service.url}/readyz", trust_env=False).is_success


def test_no_process_is_left_after_a_normal_end(tmp_path: Path) -> None:
    others = psutil.Process().children(recursive=True)
    with stand_ins.embedded_service(tmp_path, StopSignals()):
        family = [child for child in psutil.Process().children(recursive=True) if child not in others]

    assert_gone(family, at_least=5)  # two guardians, two leaders, the worker's child


def test_no_process_is_left_after_an_exception(tmp_path: Path) -> None:
    others = psutil.Process().children(recursive=True)
    with suppress(ZeroDivisionError), stand_ins.embedded_service(tmp_path, StopSignals()):
        family = [child for child in psutil.Process().children(recursive=True) if child not in others]
        raise ZeroDivisionError

    assert_gone(family, at_least=5)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_is_left_after_a_signal(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with running_parent(tmp_path) as parent:
        family = psutil.Process(parent.pid).children(recursive=True)

        parent.send_signal(number)

        assert parent.wait(PATIENCE_SECONDS) == status
        assert_gone(family, at_least=5)


def test_second_service_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    with (
        stand_ins.embedded_service(tmp_path, StopSignals()),
        pytest.raises(DataDirectoryInUse, match=str(tmp_path)),
        stand_ins.embedded_service(tmp_path, StopSignals()),
    ):
        pass


def test_data_directory_is_free_again_after_the_service(tmp_path: Path) -> None:
    for _ in range(2):
        with stand_ins.embedded_service(tmp_path, StopSignals()) as service:
            assert service.url


def test_gateway_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    def broken(_fd: int) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such table')"]

    commands = replace(stand_ins.COMMANDS, gateway=broken)
    service = EmbeddedService(tmp_path, StopSignals(), commands=commands)
    with pytest.raises(ServiceEnded, match=r"(?s)gateway ended by itself.*no such table"), service:
        pass


def test_database_that_cannot_be_migrated_is_reported(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('from a newer version')"]
    commands = replace(stand_ins.COMMANDS, migrations=broken)
    service = EmbeddedService(tmp_path, StopSignals(), commands=commands)
    with pytest.raises(ServiceEnded, match=r"could not be brought up to date: from a newer version"), service:
        pass


def test_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = EmbeddedService(tmp_path, StopSignals(), port=port)
        with pytest.raises(HoldfastError, match=f"Cannot listen on 127.0.0.1:{port}"), service:
            pass


def test_url_of_a_wildcard_address_is_one_that_can_be_opened() -> None:
    with listen("0.0.0.0", 0) as listener:  # noqa: S104
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_embedded_service_keeps_to_its_data_directory(tmp_path: Path) -> None:
    inherited = {"HOLDFAST_DATABASE_URL": "postgresql://elsewhere/holdfast", "PATH": "/bin"}

    environment = service_environment(inherited, tmp_path, None)

    assert "HOLDFAST_DATABASE_URL" not in environment
    assert environment["HOLDFAST_DATA_DIRECTORY"] == str(tmp_path)


def test_relative_model_roots_are_found_from_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_MODEL_ROOTS", '["models"]')

    environment = service_environment({}, tmp_path / "data", None)

    assert environment["HOLDFAST_MODEL_ROOTS"] == f'["{tmp_path}/models"]'


def test_worker_may_take_as_long_to_stop_as_handing_over_and_ending_its_child_take(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    assert settings.stop_seconds > settings.handover_seconds + settings.cancel_grace_seconds
    assert create_celery(settings).conf.worker_soft_shutdown_timeout == settings.stop_seconds


@contextmanager
def running_parent(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a service of stand-ins; ready when this returns."""
    command = [sys.executable, "-m", "tests.cli.stand_ins", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline().startswith("http://127.0.0.1:")
            yield parent
        finally:
            parent.kill()


def assert_gone(family: list[psutil.Process], *, at_least: int) -> None:
    assert len(family) >= at_least
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert alive == []
