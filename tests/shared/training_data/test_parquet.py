"""A small file of Parquet can stand for gigabytes; no more is read than may be."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow.parquet import ParquetFile, write_table

from shared.training_data import UnusableTrainingData, parquet
from shared.training_data.parquet import parquet_items

LARGE = "x" * 10_000


def file_of(encoding: dict[str, str] | None = None, **columns: Any) -> bytes:
    buffer = io.BytesIO()
    table = arrow.table(columns)
    write_table(table, buffer, store_schema=False, use_dictionary=encoding is None, column_encoding=encoding)
    return buffer.getvalue()


def repeated(text: str, times: int) -> Any:
    """A column that holds one text so many times, and stores it once."""
    return arrow.DictionaryArray.from_arrays(arrow.array([0] * times, arrow.int32()), arrow.array([text]))


def values(content: bytes) -> list[object]:
    return [item.value for item in parquet_items(content, "file:a.parquet")]


def refused(content: bytes) -> str:
    with pytest.raises(UnusableTrainingData) as caught:
        for _ in parquet_items(content, "file:a.parquet"):
            pass
    return caught.value.reason


def test_columns_that_no_shape_knows_are_not_read() -> None:
    assert values(file_of(text=["a", "b"], embedding=[[0.5], [1.5]])) == [{"text": "a"}, {"text": "b"}]
    assert "none of the columns" in refused(file_of(embedding=[[0.5]]))


def test_values_are_those_that_were_written() -> None:
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": "u"}, {"role": "gpt", "content": None}], "label": 3},
        {"messages": [], "label": None},
        {"messages": None, "label": -1},
    ]
    table = arrow.Table.from_pylist(rows)
    assert values(file_of(**dict(zip(table.column_names, table.columns, strict=True)))) == rows


def test_more_rows_than_a_source_may_have_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_FILE_RECORDS", 9)
    assert refused(file_of(text=repeated("a", 10))) == "has more than 9 records"


def test_more_values_than_a_file_may_have_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_PARQUET_VALUES", 99)
    one_row = arrow.ListArray.from_arrays(arrow.array([0, 100], arrow.int32()), repeated("a", 100))
    assert refused(file_of(choices=one_row)) == "has more than 99 values"


def test_what_a_file_says_of_its_size_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_PARQUET_BYTES", 10)
    assert "uncompressed" in refused(file_of(text=["a", "b"]))


@pytest.mark.parametrize("nested", [False, True])
def test_repeated_texts_are_counted_as_often_as_they_occur(
    nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_PARQUET_BYTES", 200_000)
    times = 2_000  # 20 MB once unpacked
    column = repeated(LARGE, times)
    if nested:
        column = arrow.ListArray.from_arrays(arrow.array([0, times], arrow.int32()), column)
    content = file_of(choices=column)
    assert len(content) < 5_000
    tracemalloc.start()
    assert "values" in refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_texts_are_not_unpacked_a_batch_at_a_time() -> None:
    content = file_of(text=repeated("x" * 1_000_000, 100))
    plain = ParquetFile(arrow.BufferReader(content))
    assert parquet.text_leaves(plain, ["text"]) == ["text"]
    rows = parquet_items(content, "file:a.parquet")
    next(rows)
    assert arrow.total_allocated_bytes() < 20_000_000


@pytest.mark.parametrize("encoding", sorted(parquet.UNREAD_ENCODINGS))
def test_encodings_that_repeat_texts_without_a_dictionary_are_refused(encoding: str) -> None:
    assert f"encoded as {encoding};" in refused(file_of({"text": encoding}, text=["a", "ab"]))
    assert values(file_of({"id": encoding}, label=[1], id=["a"])) == [{"label": 1}]


def test_a_column_twice_is_refused() -> None:
    table = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], ["text", "text"])
    buffer = io.BytesIO()
    write_table(table, buffer)
    assert refused(buffer.getvalue()) == "is the name of two columns"


def test_dates_that_no_object_can_hold_are_refused() -> None:
    late = arrow.array([2**60], arrow.timestamp("ms"))
    assert "cannot be read as Parquet" in refused(file_of(text=["a"], label=late))


def test_text_that_is_not_utf_8_is_refused() -> None:
    content = file_of(text=["abcd"]).replace(b"abcd", b"ab\xff\xfe")
    assert "cannot be read as Parquet" in refused(content)
