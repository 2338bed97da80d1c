"""`python -m tests.chaos.run --seconds 150 --seed 7 --deployment both`: break everything, check the promises.

Every request is first run once with nothing going wrong. Then, for each deployment, audits are submitted
while faults are injected at the moments that the seed decides; then everything is healed, every audit
must end, and the checker judges the history. The exit status is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos import history as histories
from tests.chaos.history import History, Record
from tests.chaos.recovery import recoveries
from tests.chaos.stage import record_run, reference_results, tell

DEPLOYMENTS = ("sqlite", "postgresql")
OWN_MOUNTS = "HOLDFAST_CHAOS_OWN_MOUNTS"


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description="Run audits under faults and check the promises.")
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults, per deployment")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--deployment", choices=[*DEPLOYMENTS, "both"], default="both")
    parser.add_argument("--keep", type=Path, help="a directory that histories and logs are left in")
    arguments = parser.parse_args()
    take_mounts_of_our_own()
    kinds = DEPLOYMENTS if arguments.deployment == "both" else (arguments.deployment,)
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-reference-") as directory:
        reference = reference_results(
            kinds[0], arguments.seconds, arguments.seed, Path(directory) / "reference"
        )
    broken = [kind for kind in kinds if not judge(kind, arguments, reference)]
    return 1 if broken else 0


def take_mounts_of_our_own() -> None:
    """Begin again in a mount namespace, where one is to be had: what we mount goes when we end."""
    unshare = shutil.which("unshare")
    if os.environ.get(OWN_MOUNTS) or unshare is None:
        return
    begin = [unshare, "--mount", "--propagation", "private"]
    if subprocess.run([*begin, "true"], check=False, capture_output=True).returncode == 0:
        os.environ[OWN_MOUNTS] = "yes"
        os.execv(unshare, [*begin, sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]])  # noqa: S606


def judge(kind: str, arguments: argparse.Namespace, reference: list[Record]) -> bool:
    """Run one deployment, print what came of it; whether every promise was kept."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix=f"holdfast-chaos-{kind}-"))
    kept = False
    try:
        history = record_run(kind, arguments.seconds, arguments.seed, directory, reference)
        path = directory / "history.jsonl"
        histories.write(history, path)
        command = [sys.executable, "-m", "tests.chaos.checker", str(path)]
        checked = subprocess.run(command, check=False, capture_output=True, text=True)
        sys.stdout.write(table(history, checked.stdout.count("VIOLATION"), time.monotonic() - began))
        sys.stdout.write(checked.stdout + checked.stderr)
        sys.stdout.flush()
        kept = checked.returncode == 0
    finally:
        if arguments.keep:
            shutil.copytree(directory, arguments.keep / kind, dirs_exist_ok=True, symlinks=True)
        if kept:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            tell(f"what happened is in {directory}")
    return kept


def table(history: History, violations: int, seconds: float) -> str:
    """What was done and what came of it, for people."""
    audits = Counter(audit["status"] for audit in history.final_audits.values())
    faults = Counter(fault["kind"] for fault in history.of_type("fault") if fault["act"] == "began")
    deliveries = Counter(delivery["kind"] for delivery in history.of_type("delivery"))
    slowest = recoveries(history)[:1]
    lines = [
        ("deployment", f"{history.header['deployment']}, seed {history.header['seed']}"),
        ("audits", f"{audits.total()}: {_counts(audits)}"),
        ("faults", f"{faults.total()}: {_counts(faults)}"),
        ("stray wake-ups", _counts(deliveries)),
        ("slowest recovery", "".join(f"{took:.1f} s, after {fault['kind']}" for took, fault in slowest)),
        ("wall time", f"{seconds:.0f} s"),
        ("violations", str(violations)),
    ]
    return "".join(f"{name:17} {value or 'none'}\n" for name, value in lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
