"""The whole service on one data directory, started and stopped by the command line.

One gateway and one worker, as processes of their own, on SQLite and a broker made of folders.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from services.cli.errors import DataDirectoryInUse, HoldfastError, ServiceEnded
from services.cli.processes import Command, Processes
from services.cli.signals import StopSignals
from shared.broker import QUEUE
from shared.settings import Settings

LOCK_FILE = "service.lock"
READY_SECONDS = 60.0
READY_EVERY_SECONDS = 0.1
GATEWAY_DRAIN_SECONDS = 5
BACKLOG = 128


def worker_command() -> tuple[str, ...]:
    """How a worker is run, embedded or on a machine of its own."""
    celery = (sys.executable, "-m", "celery", "-A", "services.worker.app", "worker")
    return (
        *celery,
        "--pool",
        "solo",
        "-Q",
        QUEUE,
        "--loglevel",
        "INFO",
        "--without-gossip",
        "--without-mingle",
    )


def gateway_command(fd: int) -> tuple[str, ...]:
    """How the gateway is run on a listening socket that it inherits as descriptor `fd`."""
    uvicorn = (sys.executable, "-m", "uvicorn", "services.api.app:create_app", "--factory")
    drain = ("--timeout-graceful-shutdown", str(GATEWAY_DRAIN_SECONDS))
    return (*uvicorn, "--fd", str(fd), "--no-access-log", *drain)  # the gateway writes its own


@dataclass(frozen=True)
class Commands:
    """What an embedded service runs.

    gateway: given the descriptor of its listening socket; answers `/readyz` when all is ready.
    """

    migrations: Sequence[str] = (sys.executable, "-m", "migrations")
    gateway: Callable[[int], Sequence[str]] = gateway_command
    worker: Sequence[str] = worker_command()


class EmbeddedService:
    """A context: inside it the service is ready at `url`; after it no process is left.

    tokens: submitter → bearer token that the gateway shall ask for; None leaves it to the environment.
    port: 0 takes a free one.

    Raises:
        DataDirectoryInUse: another service runs on the directory.
        ServiceEnded: a process ended while starting; the message holds the end of its log.
        HoldfastError: the address is taken, or the service is not ready in time.
    """

    def __init__(
        self,
        data_directory: Path,
        signals: StopSignals,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, str] | None = None,
        commands: Commands = Commands(),
    ) -> None:
        self._directory = data_directory.expanduser().resolve()
        self._signals = signals
        self._address = (host, port)
        self._tokens = tokens
        self._commands = commands
        self._resources = ExitStack()
        self._processes: Processes | None = None
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raise `ServiceEnded` when gateway or worker is no longer running."""
        assert self._processes is not None  # noqa: S101 (the context was entered)
        self._processes.check()

    def _start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = self._resources.enter_context(lock_directory(self._directory))
        listener = self._resources.enter_context(listen(*self._address))
        self.url = url_of(listener)
        environment = service_environment(os.environ, self._directory, self._tokens)
        migrate(self._commands.migrations, self._directory, environment)
        self._processes = Processes(
            self._directory,
            environment,
            grace_seconds=Settings().stop_seconds,
            held_fds=(lock.fileno(),),
        )
        fd = listener.fileno()
        self._processes.start(Command("gateway", self._commands.gateway(fd), fds=(fd,)))
        listener.close()  # from now on the port is the gateway's alone
        self._processes.start(Command("worker", self._commands.worker))
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(base_url=self.url, trust_env=False, timeout=READY_SECONDS) as http:
            while True:
                self.check()
                try:
                    response = http.get("/readyz")
                    if response.is_success:
                        return
                    last_answer = response.text
                except httpx.TransportError as error:
                    last_answer = str(error)
                if time.monotonic() > deadline:
                    raise HoldfastError(
                        f"The service was not ready within {READY_SECONDS:.0f} seconds", last_answer
                    )
                time.sleep(READY_EVERY_SECONDS)

    def _stop(self) -> None:
        self._signals.deferred = True
        if self._processes is not None:
            self._processes.stop(impatient=lambda: self._signals.repeated)
        self._resources.close()


def lock_directory(directory: Path) -> IO[str]:
    """Take the directory for ourselves for as long as the file, or an inherited copy of it, is open."""
    file = (directory / LOCK_FILE).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise DataDirectoryInUse(
            f"Another Holdfast service uses {directory}",
            f"It was started by process {holder}." if holder else "",
            hint="Stop it, use it with --url, or choose another directory with --data.",
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; taken before the gateway starts, so that nobody else gets the port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise HoldfastError(
            f"Cannot listen on {host}:{port}",
            error.strerror or str(error),
            hint="Choose another address with --host and --port.",
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def service_environment(
    inherited: Mapping[str, str], directory: Path, tokens: Mapping[str, str] | None
) -> dict[str, str]:
    """The environment of gateway and worker: all they keep lies in `directory`.

    Relative model and data roots are made absolute: the processes run elsewhere.
    """
    environment = dict(inherited)
    for name in ("HOLDFAST_DATABASE_URL", "HOLDFAST_BROKER_URL", "HOLDFAST_ARTIFACTS_URL"):
        environment.pop(name, None)
    settings = Settings()
    environment["HOLDFAST_DATA_DIRECTORY"] = str(directory)
    environment["HOLDFAST_MODEL_ROOTS"] = json.dumps([str(root.absolute()) for root in settings.model_roots])
    environment["HOLDFAST_DATA_ROOTS"] = json.dumps([str(root.absolute()) for root in settings.data_roots])
    environment["PYTHONUNBUFFERED"] = "1"
    if tokens is not None:
        environment["HOLDFAST_TOKENS"] = json.dumps(dict(tokens))
    return environment


def migrate(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    """Bring the directory's database to the schema of this version."""
    finished = subprocess.run(  # noqa: S603 (our own command)
        command,
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise ServiceEnded(f"The database in {directory} could not be brought up to date", finished.stderr)
