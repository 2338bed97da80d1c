"""The same records come out of every format, and bad files are refused with the place at fault."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow
import pytest
from pyarrow.parquet import write_table

from shared.training_data import Item, UnusableTrainingData, formats
from shared.training_data.formats import items_in

RECORDS = [{"prompt": "a, b", "completion": "c"}, {"prompt": 'd "e"\nf', "completion": "g"}]
CSV = b'prompt,completion\n"a, b",c\n"d ""e""\nf",g\n'


def parquet(records: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(records), buffer)
    return buffer.getvalue()


FILES = {
    "a.json": json.dumps(RECORDS).encode(),
    "a.jsonl": "\n".join(map(json.dumps, RECORDS)).encode(),
    "a.csv": CSV,
    "a.parquet": parquet([dict(record) for record in RECORDS]),
}


def read(name: str, content: bytes) -> list[Item]:
    return list(items_in(content, name, f"file:{name}"))


def refused(name: str, content: bytes) -> UnusableTrainingData:
    with pytest.raises(UnusableTrainingData) as caught:
        _ = [item.fields for item in items_in(content, name, f"file:{name}")]
    return caught.value


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_records(name: str, packed: bool) -> None:
    content = gzip.compress(FILES[name]) if packed else FILES[name]
    assert [item.value for item in read(name + ".gz" * packed, content)] == RECORDS


def test_nested_columns_of_parquet_are_chats() -> None:
    chat = [{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}]
    assert [item.value for item in read("a.parquet", parquet([dict(record) for record in chat]))] == chat


def test_cells_that_hold_json_are_read_as_such() -> None:
    content = b'question,choices,answer\nq,"[""a"", ""b""]",1\nr,[not json,1\n'
    assert [item.value for item in read("a.csv", content)] == [
        {"question": "q", "choices": ["a", "b"], "answer": "1"},
        {"question": "r", "choices": "[not json", "answer": "1"},
    ]


def test_rows_of_csv_are_named_by_the_line_they_begin_on() -> None:
    assert [item.line for item in read("a.csv", CSV + b"\nh,i\n")] == [2, 3, 6]


def test_text_without_blank_lines_is_a_record_per_line() -> None:
    items = read("a.txt", b"\none\ntwo\n")
    assert [(item.value, item.line) for item in items] == [({"text": "one"}, 2), ({"text": "two"}, 3)]


def test_paragraphs_are_named_by_the_line_they_begin_on() -> None:
    assert [item.line for item in read("a.txt", b"\none\nstill\n\n\ntwo\n")] == [2, 6]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"prompt,completion\na,b,c\n", 2),
        ("a.csv", b"prompt,completion\na\n", 2),
        ("a.csv", b"prompt,prompt\na,b\n", 1),
        ("a.csv", b"", 1),
        ("a.csv", b'prompt,completion\n"a"b,c\n', 2),
        ("a.json", b'[{"text": "a"},\n', 2),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', 2),
        ("a.txt", b"one\n\n\xff", 3),
        ("a.parquet", b"PAR1", None),
        ("a.jsonl.gz", b"not gzip", None),
        ("a.jsonl.gz", gzip.compress(FILES["a.jsonl"])[:-12], None),
        ("a.jsonl.bz2", b"", None),
        ("a", b"", None),
    ],
)
def test_bad_file_is_refused_with_its_line(name: str, content: bytes, line: int | None) -> None:
    assert refused(name, content).line == line


def test_a_compressed_file_is_no_larger_than_a_plain_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 1000)
    assert "larger" in refused("a.txt.gz", gzip.compress(b"a" * 100_000)).reason


@pytest.mark.parametrize("name", FILES)
def test_a_source_has_no_more_records_than_its_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_FILE_RECORDS", 1)
    assert "more than 1 records" in refused(name, FILES[name]).reason


@pytest.mark.parametrize("cell", ['{"a": 1}', "[1, 2]", '["a"]', "[]", '{"from": "here", "to": "there"}'])
@pytest.mark.parametrize("column", ["prompt", "completion", "text", "output", "chosen"])
def test_cells_that_look_like_json_are_text(column: str, cell: str) -> None:
    quoted = cell.replace('"', '""')
    (item,) = read("a.csv", f'{column}\n"{quoted}"\n'.encode())
    assert item.value == {column: cell}


def test_cells_that_hold_turns_are_turns() -> None:
    turn = {"role": "assistant", "content": "a"}
    cell = json.dumps(turn).replace('"', '""')
    (item,) = read("a.csv", f'prompt,chosen\n"[{cell}]","{cell}"\n'.encode())
    assert item.value == {"prompt": [turn], "chosen": turn}
