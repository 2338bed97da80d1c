"""A skewed wall clock is an hour off for a process and its children, and nothing else about them changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos import instrumentation
from tests.chaos.instrumentation.sitecustomize import CLOCK_VARIABLE

TELL = """
import asyncio, datetime, json, sqlite3, subprocess, sys, time
begun, asked = time.monotonic(), time.time()
asyncio.run(asyncio.sleep(0.05))
told = {
    "time": time.time(),
    "datetime": datetime.datetime.now(datetime.UTC).timestamp(),
    "monotonic": time.monotonic(),
    "slept": time.monotonic() - begun,
    "ticked": time.time() - asked,
    "database": sqlite3.connect(":memory:").execute("SELECT strftime('%s', 'now')").fetchone()[0],
}
if len(sys.argv) == 1:
    told["child"] = json.loads(subprocess.check_output([sys.executable, __file__, "child"], timeout=60))
print(json.dumps(told))
"""


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_wall_clock_is_off_for_a_process_and_its_children(seconds: int, tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text(TELL)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(instrumentation.__file__).parent),
        CLOCK_VARIABLE: str(seconds),
    }
    before = time.time(), time.monotonic()
    told = json.loads(subprocess.check_output([sys.executable, str(script)], env=environment))
    after = time.time(), time.monotonic()
    for process in (told, told["child"]):
        assert before[0] + seconds <= process["time"] <= after[0] + seconds
        assert before[0] + seconds <= process["datetime"] <= after[0] + seconds
        assert before[1] <= process["monotonic"] <= after[1]
        assert process["slept"] >= 0.05
        assert process["ticked"] >= 0.05
        assert int(before[0]) <= int(process["database"]) <= after[0]
