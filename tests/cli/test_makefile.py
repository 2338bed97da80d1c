from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def find_python(directory: Path, *programs: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the finder where `programs` (name, shell script) are all there is beside make and a shell."""
    for name in ("make", "sh"):
        found = next(Path(place) / name for place in os.defpath.split(":") if (Path(place) / name).exists())
        (directory / name).symlink_to(found)
    for name, script in programs:
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    environment = {"PATH": str(directory)}
    command = ["make", "--silent", "--no-print-directory", "python"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


THIS_PYTHON = ("python3", f'exec {sys.executable} "$@"')
BROKEN_SHIM = ("python3.12", "echo 'command not found' >&2; exit 127")
OLD_PYTHON = ("python3.11", "exit 1")  # what the version check makes of any other version


def test_python_that_fits_is_found(tmp_path: Path) -> None:
    assert find_python(tmp_path, THIS_PYTHON).stdout == "python3\n"


def test_shim_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    assert find_python(tmp_path, BROKEN_SHIM, THIS_PYTHON).stdout == "python3\n"


def test_python_of_another_version_is_passed_over(tmp_path: Path) -> None:
    assert find_python(tmp_path, OLD_PYTHON, THIS_PYTHON).stdout == "python3\n"


def test_without_a_python_that_fits_the_message_says_which_are_needed(tmp_path: Path) -> None:
    finished = find_python(tmp_path, BROKEN_SHIM, OLD_PYTHON)

    assert finished.returncode != 0
    assert "needs Python 3.11 or 3.12" in finished.stderr
