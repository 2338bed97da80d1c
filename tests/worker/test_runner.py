"""The child that owns the model, as a process: with which status it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from services.worker.child import COMMAND
from services.worker.exiting import run_and_exit
from services.worker.orders import LEASE_LOST_STATUS, lease_line
from shared.database import create_database_engine
from shared.leases import Lease
from shared.settings import Settings

SECONDS = 120.0  # it imports torch and transformers

LISTENING = f"""
import sys, threading
from {run_and_exit.__module__} import run_and_exit

def main():
    threading.Thread(target=sys.stdin.buffer.read, daemon=True).start()
    print("said at last", end="")
    return {{result}}

run_and_exit(main)
"""


@pytest.mark.parametrize(("result", "status"), [("0", 0), ("75", 75), ("1 / 0", 1)])
def test_process_whose_thread_reads_standard_input_exits_with_its_status(result: str, status: int) -> None:
    command = [sys.executable, "-c", LISTENING.format(result=result)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(SECONDS) == status
        assert process.stdout is not None
        assert process.stdout.read() == b"said at last"


def test_child_that_has_lost_its_lease_says_so_by_its_status(tmp_path: Path) -> None:
    engine = create_database_engine(Settings(data_directory=tmp_path).resolved_database_url)
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    surroundings = {**os.environ, "HOLDFAST_DATA_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=surroundings
    ) as child:
        assert child.stdin is not None
        child.stdin.write(lease_line(Lease("audit", "attempt", "token", 60.0)))
        child.stdin.flush()
        assert child.wait(SECONDS) == LEASE_LOST_STATUS
