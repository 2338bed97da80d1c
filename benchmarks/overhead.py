"""What does the service cost? `python -m benchmarks.overhead [--pairs 2] [--request FILE]`

Runs an audit through the service (from its submission to its end) and its steps in one process without
the service (from that process's start to its end), by turns, and prints the times and their ratio. The
service has been started and is idle; its worker starts a child for each audit, as the other process is
started. Nothing is reused: each run has a data directory of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services.cli.client import HoldfastClient
from services.cli.embedded import EmbeddedService
from services.cli.signals import StopSignals
from shared.states import AuditStatus

EXAMPLE = Path(__file__).parents[1] / "examples" / "almanac.json"
LOOK_SECONDS = 0.1


def main() -> None:
    """Measure pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--request", type=Path, default=EXAMPLE)
    arguments = parser.parse_args()
    ratios = []
    for pair in range(arguments.pairs):
        ways = [through_the_service, without_the_service]
        seconds = {way.__name__: way(arguments.request) for way in (ways if pair % 2 else ways[::-1])}
        served, bare = (seconds[way.__name__] for way in ways)
        ratios.append(served / bare)
        print(f"pair {pair + 1}: service {served:.1f} s, without {bare:.1f} s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


def through_the_service(request: Path) -> float:
    """Seconds from the submission to the end of the audit."""
    body: dict[str, Any] = json.loads(request.read_text())
    with (
        tempfile.TemporaryDirectory() as folder,
        StopSignals() as signals,
        EmbeddedService(Path(folder), signals) as service,
        HoldfastClient(service.url) as client,
    ):
        began = time.perf_counter()
        audit_id = client.submit(body).id
        while not (view := client.get(audit_id)).status.is_terminal:
            time.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - began
    assert view.status is AuditStatus.SUCCEEDED, view.error
    return seconds


def without_the_service(request: Path) -> float:
    """Seconds that the process takes which runs the same steps."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.bare", str(request)], check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
