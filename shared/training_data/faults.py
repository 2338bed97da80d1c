"""Training data that cannot be used, with the place that is at fault."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import NoReturn

QUOTED_CHARACTERS = 80

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = QUOTED_CHARACTERS


def quoted(value: object) -> str:
    """The beginning of a value as an error may quote it: text as it is, else its representation."""
    text = value if isinstance(value, str) else _short.repr(value)
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[: QUOTED_CHARACTERS - 1]}…"


class SourceUnavailable(Exception):
    """A source gives no answer now; nothing is known of its records, and trying again may help."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source


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
    """One record as it was found, and where, so that an error can name the place.

    A value that is an UnusableTrainingData stands for a record that could not even be read.
    """

    value: object
    source: str
    line: int | None = None
    index: int | None = None

    def refuse(self, reason: str, field: str | None = None) -> NoReturn:
        """Raise UnusableTrainingData for this record."""
        raise UnusableTrainingData(reason, self.source, line=self.line, index=self.index, field=field)

    @property
    def fields(self) -> dict[str, object]:
        """The record's fields; raises UnusableTrainingData when it has none."""
        if isinstance(self.value, UnusableTrainingData):
            raise self.value
        if not isinstance(self.value, dict):
            self.refuse(f"must be an object, not {type(self.value).__name__}")
        return self.value

    def text(self, field: str) -> str:
        """A field that must be there and be text."""
        if field not in self.fields:
            self.refuse("the field is missing", field)
        value = self.fields[field]
        if not isinstance(value, str):
            self.refuse(f"must be text, not {type(value).__name__}", field)
        return value
