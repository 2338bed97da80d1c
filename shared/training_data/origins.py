"""Where training data comes from: the request, the built-in docstrings, a data root, a URL, an upload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared.docstrings import TUNING_MODULES, docstring_paragraphs
from shared.recipes import TrainingData
from shared.training_data.faults import Item, UnusableTrainingData
from shared.training_data.formats import check_size, items_in
from shared.training_data.limits import MAX_FILE_BYTES
from shared.training_data.urls import read_url

BUILTIN_PREFIX, FILE_PREFIX = "builtin:", "file:"
URL_PREFIX, UPLOAD_PREFIX = "url:", "training_set:"


def nothing_uploaded(identifier: str) -> tuple[str, bytes]:
    """What a place answers that keeps no uploads."""
    raise UnusableTrainingData("there is no such training set", UPLOAD_PREFIX + identifier)


@dataclass(frozen=True)
class Origins:
    """What may be read here.

    data_roots: directories that `file:` may lie under; url_prefixes: what `url:` must begin with, nothing by
    default; uploaded: gives the name and the content of `training_set:ID`, or raises UnusableTrainingData.
    """

    data_roots: Sequence[Path] = ()
    url_prefixes: Sequence[str] = ()
    uploaded: Callable[[str], tuple[str, bytes]] = nothing_uploaded


def items_of(data: TrainingData, origins: Origins) -> Iterator[Item]:
    """Every record of the source as it was found, blank ones included."""
    if data.records is not None:
        return (
            Item(record.model_dump(mode="json"), "records", index=index)
            for index, record in enumerate(data.records)
        )
    assert data.source is not None  # noqa: S101 (the schema asks for one of the two)
    return source_items(data.source, origins)


def source_items(source: str, origins: Origins) -> Iterator[Item]:
    """Every record of a named source."""
    if source.startswith(FILE_PREFIX):
        name = source.removeprefix(FILE_PREFIX)
        return items_in(read_file(find_file(source, name, origins.data_roots), source), name, source)
    if source.startswith(URL_PREFIX):
        url = source.removeprefix(URL_PREFIX)
        return items_in(read_url(url, origins.url_prefixes, source), url, source)
    if source.startswith(UPLOAD_PREFIX):
        name, content = origins.uploaded(source.removeprefix(UPLOAD_PREFIX))
        return items_in(content, name, source)
    paragraphs = docstring_paragraphs(TUNING_MODULES)
    return (Item({"text": paragraph}, source, index=index) for index, paragraph in enumerate(paragraphs))


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


def read_file(path: Path, source: str) -> bytes:
    """A file's content; raises UnusableTrainingData when it is too large or unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableTrainingData(f"cannot be read: {error.strerror}", source) from error
    check_size(content, source)
    return content
