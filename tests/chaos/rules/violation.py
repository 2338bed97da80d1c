"""What a rule says when it was broken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """What was seen, and the numbers of the records that show it."""

    what: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} [{', '.join(map(str, self.numbers))}]"
