"""Parquet files, of which a few hundred bytes can stand for gigabytes.

Only columns that some shape knows are read. Texts stay encoded by their dictionary, and what rows
take as objects is counted before a few at a time become such.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shared.training_data.faults import Item, UnusableTrainingData, quoted
from shared.training_data.limits import MAX_FILE_RECORDS
from shared.training_data.shapes import KNOWN_FIELDS

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

MAX_PARQUET_BYTES = 512 * 2**20  # uncompressed: by the file's own account, and of values as they are read
MAX_PARQUET_VALUES = 16 * MAX_FILE_RECORDS
UNREAD_ENCODINGS = frozenset({"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"})  # they have no dictionary
VALUE_BYTES = 64  # what a value takes beside its text
ROWS_AT_ONCE = 65_536  # each batch carries the whole dictionary
BYTES_AT_ONCE = 2**20


def parquet_items(content: bytes, source: str) -> Iterator[Item]:
    """A record per row, of the columns that shapes know.

    Raises UnusableTrainingData when the file is malformed, or holds more than may be read.
    """
    from pyarrow import ArrowException, BufferReader  # takes a moment, and few audits need it
    from pyarrow.parquet import ParquetFile

    index = 0
    try:
        plain = ParquetFile(BufferReader(content))
        names = known_columns(plain, source)
        file = ParquetFile(BufferReader(content), read_dictionary=text_leaves(plain, names))
        budget = Budget(source)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
            for row in budget.rows(batch.select(names)):
                yield Item(row, source, index=index)
                index += 1
    except (ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        reason = f"cannot be read as Parquet: {quoted(str(error))}"
        raise UnusableTrainingData(reason, source, index=index or None) from error


def known_columns(file: ParquetFile, source: str) -> list[str]:
    """The columns to read; raises UnusableTrainingData when there are none, or they hold too much."""
    counts = Counter(file.schema_arrow.names)
    names = [name for name in counts if name in KNOWN_FIELDS]
    if not names:
        raise UnusableTrainingData("has none of the columns that records are read from", source)
    if twice := next((name for name in names if counts[name] > 1), None):
        raise UnusableTrainingData("is the name of two columns", source, field=twice)
    if file.metadata.num_rows > MAX_FILE_RECORDS:
        raise UnusableTrainingData(f"has more than {MAX_FILE_RECORDS:,} records", source)
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    chunks = [group.column(leaf) for group in groups for leaf in leaves(file, names)]
    if packed := sorted({encoding for chunk in chunks for encoding in chunk.encodings} & UNREAD_ENCODINGS):
        reason = f"has texts encoded as {' and '.join(packed)}; only plain ones and dictionaries are read"
        raise UnusableTrainingData(reason, source)
    if sum(chunk.total_uncompressed_size for chunk in chunks) > MAX_PARQUET_BYTES:
        raise UnusableTrainingData(f"is larger than {MAX_PARQUET_BYTES // 2**20} MiB uncompressed", source)
    if sum(chunk.num_values for chunk in chunks) > MAX_PARQUET_VALUES:
        raise UnusableTrainingData(f"has more than {MAX_PARQUET_VALUES:,} values", source)
    return names


def leaves(file: ParquetFile, names: list[str]) -> list[int]:
    """The indices of the leaf columns under columns of these names."""
    schema = file.metadata.schema
    return [
        index for index in range(len(schema)) if schema.column(index).path.partition(".")[0] in set(names)
    ]


def text_leaves(file: ParquetFile, names: list[str]) -> list[str]:
    """The paths of the leaf columns that hold texts."""
    found = [file.metadata.schema.column(index) for index in leaves(file, names)]
    return [
        column.path
        for column in found
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    ]


class Budget:
    """What may still become objects of one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.bytes_left = MAX_PARQUET_BYTES

    def rows(self, batch: RecordBatch) -> Iterator[dict[str, object]]:
        """The rows of a batch, never so many at once that their objects are large together.

        Raises UnusableTrainingData at the row that is beyond the limit.
        """
        size = sum(unpacked_bytes(column) for column in batch.columns)
        if batch.num_rows > 1 and size > BYTES_AT_ONCE:
            middle = batch.num_rows // 2
            yield from self.rows(batch.slice(0, middle))
            yield from self.rows(batch.slice(middle))
            return
        self.bytes_left -= size
        if self.bytes_left < 0:
            reason = f"holds more than {MAX_PARQUET_BYTES // 2**20} MiB of values"
            raise UnusableTrainingData(reason, self.source)
        yield from batch.to_pylist()


def unpacked_bytes(array: Any) -> int:
    """What the values of an Arrow array take as objects, about, those within lists and structs included.

    Raises ArrowException for types whose values have no length that could be told beforehand.
    """
    from pyarrow import BaseExtensionType, DictionaryArray, StructArray, compute, types

    kind = array.type
    if isinstance(kind, BaseExtensionType):
        return unpacked_bytes(array.storage)
    size = VALUE_BYTES * len(array)
    if types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind):
        return size
    if isinstance(array, StructArray):
        return size + sum(unpacked_bytes(field) for field in array.flatten())
    if types.is_nested(kind):
        return size + unpacked_bytes(array.flatten())
    if isinstance(array, DictionaryArray):
        used = array.indices.unique()  # a batch uses little of a large dictionary
        lengths = compute.binary_length(array.dictionary.take(used))
        lengths = lengths.take(compute.index_in(array.indices, used))
    else:
        lengths = compute.binary_length(array)
    return size + int(compute.sum(lengths).as_py() or 0)
