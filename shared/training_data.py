"""Reading the records that a recipe trains on: from the request, a data root or the built-in docstrings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeVar

from pydantic import ValidationError

from shared.docstrings import TUNING_MODULES, docstring_paragraphs
from shared.recipes import InstructionRecord, Objective, TextRecord, TrainingData

MAX_FILE_BYTES = 64 * 2**20
FILE_PREFIX = "file:"

Record = TypeVar("Record", TextRecord, InstructionRecord)


class UnusableTrainingData(Exception):
    """Training data that cannot be read; says which source, and where it can, which record and field.

    `line` counts from 1 in a text file, `index` from 0 in a list of records.
    """

    def __init__(
        self,
        reason: str,
        source: str,
        *,
        line: int | None = None,
        index: int | None = None,
        field: str | None = None,
    ) -> None:
        places = (("line", line), ("record", index), ("field", field))
        where = ", ".join(f"{name} {value}" for name, value in places if value is not None)
        super().__init__(f"{source}{f' ({where})' if where else ''}: {reason}")
        self.reason = reason
        self.source = source
        self.line = line
        self.index = index
        self.field = field


@dataclass(frozen=True)
class Item:
    """One record as it was found, and where, so that an error can name the place."""

    value: object
    source: str
    line: int | None = None
    index: int | None = None

    def refuse(self, reason: str, field: str | None = None) -> NoReturn:
        """Raise UnusableTrainingData for this record."""
        raise UnusableTrainingData(reason, self.source, line=self.line, index=self.index, field=field)


def read_records(
    data: TrainingData, objective: Objective, data_roots: Sequence[Path]
) -> list[TextRecord] | list[InstructionRecord]:
    """The records that `data` names, in its order and up to its limit, in the shape of `objective`.

    Fields beyond those that the objective needs are ignored, and a record whose text, prompt or
    completion is blank is passed over, for there is nothing in it to learn. `instruction`, `input` and
    `output` become a prompt (instruction, blank line, input) and a completion.
    Raises UnusableTrainingData when the source is missing, too large or malformed, when a record has
    another shape, and when fewer than two distinct records remain.
    """
    match objective:
        case Objective.CAUSAL_LM:
            return usable_records(data, data_roots, text_record)
        case Objective.INSTRUCTIONS:
            return usable_records(data, data_roots, instruction_record)


def usable_records(
    data: TrainingData, data_roots: Sequence[Path], shape: Callable[[Item], Record | None]
) -> list[Record]:
    """Shape every item of the source, leaving out what holds nothing, up to the limit."""
    shaped = (shape(item) for item in items_of(data, data_roots))
    records = list(islice((record for record in shaped if record is not None), data.limit))
    distinct = len(set(records))
    if distinct < 2:
        raise UnusableTrainingData(
            f"{distinct} distinct usable records; 2 are needed, one to train on and one held out",
            data.source or "records",
        )
    return records


def text_record(item: Item) -> TextRecord | None:
    """An item as plain text; None when it is blank."""
    text = text_field(item, "text")
    return build(TextRecord, item, {"text": (text, "text")}) if text.strip() else None


def instruction_record(item: Item) -> InstructionRecord | None:
    """An item as prompt and completion, whichever of the two shapes it has; None when one is blank."""
    fields = object_of(item)
    if "prompt" not in fields and "instruction" not in fields:
        item.refuse("needs 'prompt' and 'completion', or 'instruction' and 'output'", "prompt")
    names = ("prompt", "completion") if "prompt" in fields else ("instruction", "output")
    prompt, completion = (text_field(item, name) for name in names)
    if "prompt" not in fields and fields.get("input") is not None:
        context = text_field(item, "input")
        prompt = f"{prompt}\n\n{context}" if context.strip() else prompt
    if not prompt.strip() or not completion.strip():
        return None
    return build(
        InstructionRecord, item, {"prompt": (prompt, names[0]), "completion": (completion, names[1])}
    )


def build(kind: type[Record], item: Item, values: dict[str, tuple[str, str]]) -> Record:
    """A record of `kind`; values: field of the record → (its text, the field of the item it came from)."""
    try:
        return kind.model_validate({field: text for field, (text, _) in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        item.refuse(first["msg"], values[str(first["loc"][0])][1])


def text_field(item: Item, field: str) -> str:
    """A field of the item that must be there and be text."""
    fields = object_of(item)
    if field not in fields:
        item.refuse("the field is missing", field)
    value = fields[field]
    if not isinstance(value, str):
        item.refuse(f"must be text, not {type(value).__name__}", field)
    return value


def object_of(item: Item) -> dict[str, object]:
    """The item's fields."""
    if not isinstance(item.value, dict):
        item.refuse(f"must be an object, not {type(item.value).__name__}")
    return item.value


def items_of(data: TrainingData, data_roots: Sequence[Path]) -> Iterator[Item]:
    """Every record of the source as it was found, blank ones included."""
    if data.records is not None:
        for index, record in enumerate(data.records):
            yield Item(record.model_dump(), "records", index=index)
    elif data.source is not None and data.source.startswith(FILE_PREFIX):
        yield from file_items(data.source, data_roots)
    elif data.source is not None:
        for index, paragraph in enumerate(docstring_paragraphs(TUNING_MODULES)):
            yield Item({"text": paragraph}, data.source, index=index)


def file_items(source: str, data_roots: Sequence[Path]) -> Iterator[Item]:
    """The records of `file:NAME`, read by its suffix."""
    name = source.removeprefix(FILE_PREFIX)
    readers = {".txt": paragraph_items, ".json": json_items, ".jsonl": json_line_items}
    reader = readers.get(PurePosixPath(name).suffix.lower())
    if reader is None:
        raise UnusableTrainingData(f"must end in {', '.join(readers)}", source)
    return reader(read_text(find_file(source, name, data_roots), source), source)


def find_file(source: str, name: str, data_roots: Sequence[Path]) -> Path:
    """The regular file `name` under one of the data roots, symbolic links followed but never out of it."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
        raise UnusableTrainingData("must be a path under a data root, without '..'", source)
    for root in data_roots:
        try:
            path = (root / relative).resolve(strict=True)
            if path.is_relative_to(root.resolve(strict=True)) and path.is_file():
                return path
        except (OSError, RuntimeError):  # missing, unreadable, or a loop of links
            continue
    raise UnusableTrainingData("no such file under the data roots", source)


def read_text(path: Path, source: str) -> str:
    """A file's text; raises UnusableTrainingData when it is too large, unreadable or not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableTrainingData(f"cannot be read: {error.strerror}", source) from error
    if len(content) > MAX_FILE_BYTES:
        raise UnusableTrainingData(f"is larger than {MAX_FILE_BYTES // 2**20} MiB", source)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnusableTrainingData("is not UTF-8 text", source, line=line) from error


def paragraph_items(text: str, source: str) -> Iterator[Item]:
    """Paragraphs parted by blank lines, each with the line it begins on."""
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield Item({"text": "\n".join(lines)}, source, line=number - len(lines))
            lines = []


def json_items(text: str, source: str) -> Iterator[Item]:
    """The entries of one JSON list."""
    whole = Item(parse_json(text, Item(None, source)), source)
    if not isinstance(whole.value, list):
        whole.refuse(f"must be a list of records, not {type(whole.value).__name__}")
    for index, value in enumerate(whole.value):
        yield Item(value, source, index=index)


def json_line_items(text: str, source: str) -> Iterator[Item]:
    """One JSON object per line; blank lines are passed over."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Item(parse_json(line, Item(None, source, line=number)), source, line=number)


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


def content_hash(records: Iterable[TextRecord | InstructionRecord]) -> str:
    """Hex SHA-256 of the records in their order, one line of canonical JSON each."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(canonical(record) + b"\n")
    return digest.hexdigest()


def split_held_out(
    records: Sequence[TextRecord | InstructionRecord], share: float, seed: int = 0
) -> tuple[list[TextRecord | InstructionRecord], list[TextRecord | InstructionRecord]]:
    """Records to train on and records held out: about `share` of them, at least one distinct on each side.

    Which side a record falls on follows from its content and the seed, never from its position, and
    copies of a record fall on the same side. Both lists keep the order of `records`.
    Raises ValueError when there are fewer than two distinct records.
    """
    ranks = {record: hashlib.sha256(b"%d:%b" % (seed, canonical(record))).digest() for record in records}
    if len(ranks) < 2:
        raise ValueError("two distinct records are needed to hold one out")
    held_out_count = min(max(round(share * len(ranks)), 1), len(ranks) - 1)
    held_out = set(sorted(ranks, key=ranks.__getitem__)[:held_out_count])
    return (
        [record for record in records if record not in held_out],
        [record for record in records if record in held_out],
    )


def canonical(record: TextRecord | InstructionRecord) -> bytes:
    """The record as UTF-8 JSON with sorted keys and no spaces."""
    return json.dumps(record.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
