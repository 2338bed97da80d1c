"""What does the service cost? `python -m benchmarks.overhead [--pairs 2] [--request FILE]`

Runs an audit through the service (from its submission to its end) and its steps in one process without
the service (from that process's start to its end), by turns, and prints their times on the clock and on
the processors, and the ratios. Processor time says what the service does beside the steps; it does not
mind what else the machine is busy with. The service has been started and is idle; its worker starts a
child for each audit, as the other process is started. Nothing is reused: each run has a data directory of
its own, and each computes on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from services.cli.client import HoldfastClient
from services.cli.embedded import EmbeddedService
from services.cli.signals import StopSignals
from shared.states import AuditStatus

EXAMPLE = Path(__file__).parents[1] / "examples" / "almanac.json"
LOOK_SECONDS = 0.5


def main() -> None:
    """Measure pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--request", type=Path, default=EXAMPLE)
    arguments = parser.parse_args()
    os.environ["HOLDFAST_THREADS"] = "1"  # how well threads share a busy machine is another question
    ways = [through_the_service, without_the_service]
    spent: dict[str, list[Spent]] = {way.__name__: [] for way in ways}
    for pair in range(arguments.pairs):
        for way in ways if pair % 2 else ways[::-1]:
            spent[way.__name__].append(way(arguments.request))
        served, bare = (spent[way.__name__][-1] for way in ways)
        print(f"pair {pair + 1}: service {served}, without {bare}", flush=True)
    served, bare = (
        Spent(*(statistics.median(part) for part in zip(*all_of, strict=True))) for all_of in spent.values()
    )
    print(f"ratio of medians: clock {served.clock / bare.clock:.3f}, processors {served.cpu / bare.cpu:.3f}")


class Spent(NamedTuple):
    """Seconds."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} s ({self.cpu:.1f} s on the processors)"


def through_the_service(request: Path) -> Spent:
    """From the submission to the end of the audit; on the processors: gateway, worker and its child."""
    body: dict[str, Any] = json.loads(request.read_text())
    with (
        tempfile.TemporaryDirectory() as folder,
        StopSignals() as signals,
        EmbeddedService(Path(folder), signals) as service,
        HoldfastClient(service.url) as client,
    ):
        began, cpu_before = time.perf_counter(), cpu_of_children()
        audit_id = client.submit(body).id
        while not (view := client.get(audit_id)).status.is_terminal:
            time.sleep(LOOK_SECONDS)
        spent = Spent(time.perf_counter() - began, cpu_of_children() - cpu_before)
    assert view.status is AuditStatus.SUCCEEDED, view.error
    return spent


def cpu_of_children() -> float:
    """Seconds on the processors of all processes below this one, and of those that they waited for."""
    return sum(sum(process.cpu_times()[:4]) for process in psutil.Process().children(recursive=True))


def without_the_service(request: Path) -> Spent:
    """The process that runs the same steps, from its start to its end."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "benchmarks.bare", str(request)], check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(time.perf_counter() - began, cpu)


if __name__ == "__main__":
    main()
