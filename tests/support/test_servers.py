"""The private servers start from either origin, are empty for each test, and never outlive pytest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.support import servers

ROOT = Path(__file__).parents[2]
HOLD_BOTH = """
import sys, signal
from tests.support.servers import *
with running_postgresql(packaged_postgresql()) as first, running_redis(packaged_redis()) as second:
    print(first.port, second.port, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("find", [servers.installed_postgresql, servers.packaged_postgresql])
def test_postgresql_of_either_origin_serves_a_fresh_database(find: Callable[[], Path | None]) -> None:
    binaries = find() or servers.packaged_postgresql()
    assert binaries is not None
    with servers.running_postgresql(binaries) as server, server.fresh_database() as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE fact (id integer)"))
            assert connection.execute(text("SELECT count(*) FROM fact")).scalar_one() == 0
        engine.dispose()


@pytest.mark.parametrize("find", [servers.installed_redis, servers.packaged_redis])
def test_redis_of_either_origin_answers(find: Callable[[], Path | None]) -> None:
    binary = find() or servers.packaged_redis()
    assert binary is not None
    with servers.running_redis(binary) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_postgresql_that_is_stopped_at_once_has_all_that_was_committed_when_it_starts_again() -> None:
    binaries = servers.installed_postgresql() or servers.packaged_postgresql()
    assert binaries is not None
    with (
        servers.running_postgresql(binaries, synchronous_commit="on") as server,
        server.fresh_database() as url,
    ):
        engine = create_engine(url, pool_pre_ping=True)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE fact (id integer)"))
        for number in range(20):
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO fact VALUES (:number)"), {"number": number})
        server.kept.stop()
        with pytest.raises(OperationalError), engine.connect():
            pass
        server.kept.start()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM fact")).scalar_one() == 20
        engine.dispose()


def test_redis_that_is_stopped_and_started_again_has_forgotten_all() -> None:
    binary = servers.installed_redis() or servers.packaged_redis()
    assert binary is not None
    with servers.running_redis(binary) as server, redis.Redis.from_url(server.url) as client:
        client.set("left", "behind")
        server.kept.stop()
        server.kept.start()
        assert client.dbsize() == 0


def test_postgresql_runs_from_binaries_that_only_their_owner_can_reach(tmp_path: Path) -> None:
    packaged = servers.packaged_postgresql()
    assert packaged is not None
    tmp_path.chmod(0o700)
    package = packaged.parents[1]
    for directory in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(directory, tmp_path / directory.name, symlinks=True)
    binaries = tmp_path / packaged.relative_to(package.parent)
    with servers.running_postgresql(binaries) as server, server.fresh_database() as url:
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        engine.dispose()


def test_database_is_dropped_although_somebody_is_still_connected(
    postgresql_server: servers.PostgresqlServer,
) -> None:
    with postgresql_server.fresh_database() as url:
        engine = create_engine(url)
        connection = engine.connect()
        connection.execute(text("SELECT 1"))
        name = engine.url.database
    connection.invalidate()
    engine.dispose()
    administration = create_engine(postgresql_server.url("postgres"))
    with administration.connect() as session:
        left = session.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name})
        assert left.scalar_one_or_none() is None
    administration.dispose()


def test_redis_fixture_forgets_what_a_test_wrote(redis_server: servers.RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("left", "behind")
        redis_server.flush()
        assert client.dbsize() == 0


def test_redis_is_not_open_to_who_lacks_the_password(redis_server: servers.RedisServer) -> None:
    client = redis.Redis(host=servers.HOST, port=redis_server.port, retry=servers.NO_RETRY)
    with pytest.raises(redis.AuthenticationError):
        client.ping()
    client.close()


def test_next_port_is_tried_when_another_process_took_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = servers.packaged_redis()
    assert binary is not None
    with socket.socket() as stranger:
        stranger.bind((servers.HOST, 0))
        stranger.listen()
        stranger.settimeout(0)
        free = servers._free_port()
        ports = iter([stranger.getsockname()[1], free])
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
        with servers.running_redis(binary) as server:
            assert server.port == free


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_and_their_directories_are_gone_after_their_holder_is_killed(
    how: signal.Signals, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_BOTH],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None
    ports = [int(port) for port in holder.stdout.readline().split()]
    holder.send_signal(how)
    holder.communicate()
    deadline = time.monotonic() + 30
    while any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (list(tmp_path.iterdir()), [port for port in ports if _is_open(port)]) == ([], [])


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((servers.HOST, port)) == 0
