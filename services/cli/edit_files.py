"""Reads what `holdfast edit` is given: edits, the editor's hyperparameters, an output directory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from services.api.validation import body_faults, pointer
from services.cli.errors import HoldfastError
from services.cli.request_file import read_request, read_text
from shared.editors import CATALOGUE
from shared.edits import Edit, disagreements
from shared.views import ProblemField

EDITS = TypeAdapter(list[Edit])
LINE_SUFFIXES = frozenset({".jsonl", ".ndjson"})
IGNORED_HYPERPARAMETERS = frozenset({"edits"})  # which edits a published run was made with
MAX_FIELDS = 20
MAX_DIGITS, SHOWN_CHARACTERS = 18, 60  # of an index; of a list that is none


class UnusableEdits(HoldfastError):
    """The file of edits cannot be used."""


class UnusableHyperparameters(HoldfastError):
    """The file of hyperparameters cannot be used."""


class UnusableOutput(HoldfastError):
    """The directory that results are to go to is taken, or cannot be written to."""


def read_edits(path: Path) -> list[Edit]:
    """The edits of a file: a JSON list, an object with the list as its `edits`, or one edit per line (JSONL).

    Raises:
        UnusableRequest: it cannot be read, or is not JSON.
        UnusableEdits: what it holds are no edits; every field at fault is named.
    """
    body = read_lines(path) if path.suffix in LINE_SUFFIXES else read_request(path)
    records = body.get("edits") if isinstance(body, dict) else body
    if not isinstance(records, list) or not records:
        raise UnusableEdits(f"{path} holds no edits", "It must be a list of edits, or hold one as 'edits'.")
    try:
        return EDITS.validate_python(records)
    except ValidationError as error:
        raise UnusableEdits(
            f"{path} holds edits that cannot be made", fields=at_most(body_faults(error, records))
        ) from None


def read_lines(path: Path) -> list[Any]:
    """The JSON value on each line that is not blank.

    Raises:
        UnusableRequest: the file cannot be read.
        UnusableEdits: a line is not JSON, or JSON that cannot be held.
    """
    values = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                where = f"line {number}, column {error.colno}: {error.msg}"
                raise UnusableEdits(f"{path} is not one JSON value per line", where) from error
            except RecursionError:
                raise UnusableEdits(f"{path} is nested too deeply", f"line {number}") from None
            except ValueError:  # see `read_request`
                raise UnusableEdits(f"{path} holds a number of too many digits", f"line {number}") from None
    return values


def choose_edits(edits: Sequence[Edit], only: str | None) -> dict[int, Edit]:
    """The edits whose indices `only` lists, separated by commas, in the order of the file; by default all.

    Raises:
        UnusableEdits: an index is none of the file's, or edits that are to be made at once do not agree.
    """
    indices = sorted(parse_indices(only)) if only is not None else range(len(edits))
    beyond = [index for index in indices if index >= len(edits)]
    if beyond:
        raise UnusableEdits(
            f"There is no edit {', '.join(map(str, beyond))}", f"The file holds edits 0 to {len(edits) - 1}."
        )
    chosen = {index: edits[index] for index in indices}
    if faults := disagreements(chosen.items()):
        raise UnusableEdits(
            "The edits do not agree",
            fields=at_most(
                [ProblemField(pointer=pointer([index]), detail=fault) for index, fault in faults.items()]
            ),
            hint="Choose among them with --only.",
        )
    return chosen


def parse_indices(text: str) -> set[int]:
    """`0,2,5` as numbers.

    Raises:
        UnusableEdits: it is no such list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) <= MAX_DIGITS for part in parts):
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
        raise UnusableEdits(
            f"'{shown}' is no list of edits", "Give their indices, counted from 0: --only 0,2,5"
        )
    return {int(part) for part in parts}


def read_hyperparameters(path: Path | None, editor: str) -> dict[str, Any]:
    """What a JSON object sets of an editor's hyperparameters; without a file nothing.

    Raises:
        UnusableRequest: it cannot be read, or is not JSON.
        UnusableHyperparameters: the editor has no such hyperparameters, or not with these values.
    """
    given = read_request(path) if path is not None else {}
    if not isinstance(given, dict):
        raise UnusableHyperparameters(f"{path} is not a JSON object", "It must set hyperparameters by name.")
    given = {name: value for name, value in given.items() if name not in IGNORED_HYPERPARAMETERS}
    try:
        CATALOGUE[editor].hyperparameters.model_validate(given)
    except ValidationError as error:
        known = ", ".join(CATALOGUE[editor].hyperparameters.model_fields)
        raise UnusableHyperparameters(
            f"{path} does not fit the editor {editor}",
            fields=at_most(body_faults(error, given)),
            hint=f"{editor} has the hyperparameters {known}.",
        ) from None
    return given


def at_most(faults: Sequence[ProblemField], count: int = MAX_FIELDS) -> list[ProblemField]:
    """The first faults, and a word on how many more there are."""
    if len(faults) <= count:
        return list(faults)
    return [*faults[:count], ProblemField(pointer="…", detail=f"and {len(faults) - count} more")]


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write into, which takes its place at `path` once all went well; else nothing is left.

    Raises:
        UnusableOutput: there is something at `path` already, or nothing can be written there.
    """
    path = path.expanduser().resolve()
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UnusableOutput(f"{path} is there already", "Name a new directory, or an empty one.")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UnusableOutput(f"Cannot write to {path}", error.strerror or str(error)) from error
    try:
        yield unfinished
        try:
            open_to_others(unfinished)
            unfinished.replace(path)
        except OSError as error:
            raise UnusableOutput(f"Cannot write to {path}", error.strerror or str(error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_to_others(directory: Path) -> None:
    """Give a directory and its files the permissions of new ones: temporary ones let nobody else in."""
    mask = os.umask(0)  # it can be read only by setting it
    os.umask(mask)
    directory.chmod(0o777 & ~mask)
    for file in directory.iterdir():
        file.chmod(0o666 & ~mask)
