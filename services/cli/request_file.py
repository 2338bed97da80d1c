"""Reads JSON that a person wrote, such as the request of an audit, from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.cli.errors import UnusableRequest

SHOWN_COLUMNS = 60


def read_request(path: Path) -> Any:
    """The JSON in `path`, as it is: the service is the one to judge its fields.

    Raises:
        UnusableRequest: there is no such file, it cannot be read, or it is not JSON (with line and column).
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise UnusableRequest(f"{path} is not JSON", f"{where}\n{_pointed_at(error)}") from error
    except RecursionError:
        raise UnusableRequest(f"{path} is nested too deeply") from None
    except ValueError:  # Python turns no more digits than so many into an integer
        raise UnusableRequest(f"{path} holds a number of too many digits") from None


def read_text(path: Path) -> str:
    """The text in `path`.

    Raises:
        UnusableRequest: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UnusableRequest(f"Cannot read {path}", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise UnusableRequest(f"{path} is not UTF-8 text", f"byte {error.start}: {error.reason}") from error


def _pointed_at(error: json.JSONDecodeError) -> str:
    """The line at fault, cut around the fault, with a mark under it."""
    lines = error.doc.splitlines() or [""]
    line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
    start = max(0, error.colno - 1 - SHOWN_COLUMNS // 2)
    shown = line[start : start + SHOWN_COLUMNS].replace("\t", " ")
    return f"  {shown}\n  {' ' * (error.colno - 1 - start)}^"
