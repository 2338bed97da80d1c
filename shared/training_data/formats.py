"""Files of records: JSON lines, JSON, CSV, Parquet and plain text, each also compressed by gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import NoReturn

from shared.training_data.faults import Item, UnusableTrainingData
from shared.training_data.limits import MAX_FILE_BYTES, MAX_FILE_RECORDS
from shared.training_data.parquet import parquet_items

GZIP = ".gz"
JSON_COLUMNS = frozenset({"messages", "conversations", "choices"})
TURN_COLUMNS = frozenset({"chosen", "rejected", "prompt", "question"})
TURN_FIELDS = ({"role", "content"}, {"from", "value"})

Reader = Callable[[bytes, str], Iterator[Item]]


def items_in(content: bytes, name: str, source: str) -> Iterator[Item]:
    """The records of a file, read by its name's suffix; source: what errors call it.

    Raises UnusableTrainingData when the format is unknown, the file as a whole is malformed, or it has more
    than MAX_FILE_RECORDS records.
    """
    reader = READERS[format_of(name, source)]
    if PurePosixPath(name).suffix.lower() == GZIP:
        content = unpacked(content, source)
    return bounded(reader(content, source), source)


def bounded(items: Iterator[Item], source: str) -> Iterator[Item]:
    """The items, as long as they are not too many."""
    for count, item in enumerate(items):
        if count >= MAX_FILE_RECORDS:
            raise UnusableTrainingData(f"has more than {MAX_FILE_RECORDS:,} records", source)
        yield item


def format_of(name: str, source: str) -> str:
    """The suffix that says how a file is read, without that of gzip."""
    path = PurePosixPath(name)
    path = path.with_suffix("") if path.suffix.lower() == GZIP else path
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UnusableTrainingData(f"must end in {', '.join(READERS)}, or one of these with {GZIP}", source)
    return suffix


def unpacked(content: bytes, source: str) -> bytes:
    """What gzip compressed, never holding more of it than a file may have."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            plain = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableTrainingData(f"is not a whole gzip file: {error}", source) from error
    check_size(plain, source)
    return plain


def check_size(content: bytes, source: str) -> None:
    """Raise UnusableTrainingData when a file is too large."""
    if len(content) > MAX_FILE_BYTES:
        raise UnusableTrainingData(f"is larger than {MAX_FILE_BYTES // 2**20} MiB", source)


def decoded(content: bytes, source: str) -> str:
    """Text in UTF-8, with any byte order mark left out."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnusableTrainingData("is not UTF-8", source, line=line) from error


def text_items(content: bytes, source: str) -> Iterator[Item]:
    """A record per paragraph, parted by blank lines; where there are none, a record per line."""
    lines = decoded(content, source).splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    last = next((number for number in range(len(lines) - 1, -1, -1) if lines[number].strip()), -1)
    if all(lines[number].strip() for number in range(first, last + 1)):
        for number in range(first, last + 1):
            yield Item({"text": lines[number]}, source, line=number + 1)
    else:
        yield from paragraph_items(lines, source)


def paragraph_items(lines: Sequence[str], source: str) -> Iterator[Item]:
    """Paragraphs, each with the line it begins on."""
    paragraph: list[str] = []
    for number, line in enumerate(chain(lines, [""]), start=1):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield Item({"text": "\n".join(paragraph)}, source, line=number - len(paragraph))
            paragraph = []


def json_items(content: bytes, source: str) -> Iterator[Item]:
    """The entries of one JSON list."""
    whole = Item(parse_json(decoded(content, source), Item(None, source)), source)
    if not isinstance(whole.value, list):
        whole.refuse(f"must be a list of records, not {type(whole.value).__name__}")
    for index, value in enumerate(whole.value):
        yield Item(value, source, index=index)


def json_line_items(content: bytes, source: str) -> Iterator[Item]:
    """One JSON object per line; blank lines are passed over."""
    lines = io.StringIO(decoded(content, source), newline="\n")  # one at a time: they can be many
    for number, line in enumerate((line.removesuffix("\n") for line in lines), start=1):
        if line.strip():
            try:
                yield Item(parse_json(line, Item(None, source, line=number)), source, line=number)
            except UnusableTrainingData as fault:
                yield Item(fault, source, line=number)


def parse_json(text: str, place: Item) -> object:
    """A JSON value; NaN and infinities, which JSON does not have, are refused."""

    def refuse_constant(name: str) -> NoReturn:
        place.refuse(f"{name} is not JSON")

    try:
        value: object = json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        line = error.lineno if place.line is None else place.line
        reason = f"is not JSON: {error.msg} at column {error.colno}"
        raise UnusableTrainingData(reason, place.source, line=line) from error
    except (ValueError, RecursionError) as error:
        raise UnusableTrainingData(f"is not JSON: {error}", place.source, line=place.line) from error
    return value


def csv_items(content: bytes, source: str) -> Iterator[Item]:
    """A record per row, its fields named by the first row.

    A cell is text, but for JSON where a shape takes more than text, see `cell_value`.
    """
    csv.field_size_limit(MAX_FILE_BYTES)
    rows = csv.reader(io.StringIO(decoded(content, source), newline=""), strict=True)
    try:
        header = next(rows, [])
        if not header or len(set(header)) != len(header) or not all(name.strip() for name in header):
            raise UnusableTrainingData("must begin with a row of distinct column names", source, line=1)
        names = [name.strip() for name in header]
        start = rows.line_num + 1
        for row in rows:
            if row:
                yield Item(csv_record(names, row, Item(None, source, line=start)), source, line=start)
            start = rows.line_num + 1
    except csv.Error as error:
        raise UnusableTrainingData(f"is not CSV: {error}", source, line=rows.line_num) from error


def csv_record(names: list[str], row: list[str], place: Item) -> object:
    """A row as a record, or what is wrong with it."""
    if len(row) != len(names):
        reason = f"has {len(row)} cells, but there are {len(names)} columns"
        return UnusableTrainingData(reason, place.source, line=place.line)
    return {name: cell_value(name, cell) for name, cell in zip(names, row, strict=True)}


def cell_value(name: str, cell: str) -> object:
    """A cell's text; in a column of turns or choices the JSON list or object that it holds.

    Prompts and answers are such only where they are turns: code and JSON are texts to learn as well.
    """
    if name in JSON_COLUMNS | TURN_COLUMNS and cell.lstrip()[:1] in {"[", "{"}:
        try:
            value: object = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if name in JSON_COLUMNS or holds_turns(value):
            return value
    return cell


def holds_turns(value: object) -> bool:
    """Whether a value is one turn of a chat, or a list of nothing but turns."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict) and any(pair <= turn.keys() for pair in TURN_FIELDS) for turn in turns
    )


READERS: dict[str, Reader] = {
    ".txt": text_items,
    ".json": json_items,
    ".jsonl": json_line_items,
    ".csv": csv_items,
    ".parquet": parquet_items,
}
