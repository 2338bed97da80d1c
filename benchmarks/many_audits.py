"""A thousand audits at once: `python -m benchmarks.many_audits [--audits 1000] [--workers 2]`

Submits small audits of several teams all at once, over HTTP, to a gateway with its workers on PostgreSQL
and Redis and then on SQLite and folders; follows them to their ends, and prints how they ended, how long
the submissions, the last audit and a late small one took, and the ratio of the two deployments' times.
Most of their steps are identical, so what is measured is the service, not the model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from migrations import upgrade
from services.cli.client import HoldfastClient
from services.cli.embedded import gateway_command, listen, url_of, worker_command
from services.cli.processes import Command, Processes
from shared.settings import Settings
from shared.states import AuditStatus
from tests.end_to_end.conftest import environment, wait_until_ready
from tests.support.parity_audit import PARITY_GPT2, parity_request
from tests.support.servers import (
    installed_postgresql,
    installed_redis,
    packaged_postgresql,
    packaged_redis,
    running_postgresql,
    running_redis,
)

SUBMITTING_AT_ONCE = 16
LOOK_SECONDS = 1.0


def main() -> None:
    """Measure both deployments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    totals = []
    for name in ("postgresql and redis", "sqlite and folders"):
        with deployment(name, arguments.workers) as client:
            totals.append(measure(name, client, arguments.audits))
    print(f"ratio of the two: {totals[1] / totals[0]:.2f}")


def measure(name: str, client: HoldfastClient, audits: int) -> float:
    """Submit, follow to the end, print; the seconds it all took."""
    began = time.monotonic()
    with ThreadPoolExecutor(SUBMITTING_AT_ONCE) as pool:
        ids = list(pool.map(lambda number: client.submit(small_request(number)).id, range(audits)))
    submitted = time.monotonic() - began
    urgent = client.submit(small_request(audits, priority=10)).id
    urgent_began, urgent_seconds = time.monotonic(), 0.0
    waiting, ended = {*ids, urgent}, Counter[AuditStatus]()
    while waiting:
        time.sleep(LOOK_SECONDS)
        for audit_id in sorted(waiting)[:50] + ([urgent] if urgent in waiting else []):
            status = client.get(audit_id).status
            if status.is_terminal and audit_id in waiting:
                waiting.discard(audit_id)
                ended[status] += 1
                if audit_id == urgent:
                    urgent_seconds = time.monotonic() - urgent_began
    total = time.monotonic() - began
    print(
        f"{name}: {audits} audits accepted in {submitted:.1f} s ({audits / submitted:.0f}/s);"
        f" all ended after {total:.0f} s ({total / audits:.2f} s each):"
        f" {dict(ended)}; the urgent one, submitted last, took {urgent_seconds:.1f} s",
        flush=True,
    )
    return total


def small_request(number: int, **changes: Any) -> dict[str, Any]:
    """One editor and one recipe; every request differs from the others by its label."""
    body = parity_request(editors=parity_request()["editors"][1:], labels={"number": str(number)}, **changes)
    body["recipes"][0]["freeze"] = ["none"]
    return body


@contextmanager
def deployment(name: str, workers: int) -> Iterator[HoldfastClient]:
    """A gateway and its workers on private servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        if name == "postgresql and redis":
            postgresql, redis = installed_postgresql() or packaged_postgresql(), installed_redis()
            redis = redis or packaged_redis()
            assert postgresql, "PostgreSQL is not installed"
            assert redis, "Redis is not installed"
            server = stack.enter_context(running_postgresql(postgresql))
            urls["database_url"] = stack.enter_context(server.fresh_database())
            urls["broker_url"] = stack.enter_context(running_redis(redis)).url
        settings = Settings(data_directory=folder, model_roots=(PARITY_GPT2,), threads=1, **urls)
        upgrade(settings.resolved_database_url)
        processes = Processes(folder, environment(settings), grace_seconds=20)
        stack.callback(processes.stop)
        listener = stack.enter_context(listen("127.0.0.1", 0))
        client = stack.enter_context(HoldfastClient(url_of(listener)))
        fd = listener.fileno()
        processes.start(Command("gateway", gateway_command(fd), fds=(fd,)))
        for number in range(workers):
            processes.start(Command(f"worker-{number}", worker_command()))
        wait_until_ready(client, processes)
        yield client


if __name__ == "__main__":
    main()
