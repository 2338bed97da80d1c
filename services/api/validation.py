"""From pydantic's errors to the fields at fault, as JSON Pointers into what the client sent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from shared.views import ProblemField

PATH_IN_MESSAGE = re.compile(r"^([a-z_]+(?:\.(?:[a-z_]+|\d+))*)(?=[: ])")
NAMES_THE_KEY = frozenset({"missing", "extra_forbidden"})
VALUE_ERROR = "Value error, "


def body_faults(error: ValidationError, body: object) -> list[ProblemField]:
    """Each fault that pydantic found in `body`.

    A rule over several fields begins its message with the dotted path of the one at fault, relative
    to the model that it belongs to (`edits.3 repeats edits.1`), and so every line, where there are several.
    """
    found = [
        (details["type"], _fault(details["type"], details["loc"], message, body))
        for details in error.errors(include_url=False, include_input=False)
        for message in _messages(details)
    ]
    pointers = {fault.pointer for _, fault in found}
    return [fault for kind, fault in found if kind != "too_short" or not _below(fault.pointer, pointers)]


def parameter_faults(errors: Sequence[Any]) -> list[ProblemField]:
    """Each fault in query, path or headers: `/query/limit`."""
    return [ProblemField(pointer=pointer(error["loc"]), detail=error["msg"]) for error in errors]


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON Pointer (RFC 6901); the empty one is the whole document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _below(pointer: str, pointers: set[str]) -> bool:
    """Whether an item of the list is at fault: pydantic then counts it as missing, which it is not."""
    return any(other.startswith(f"{pointer}/") for other in pointers)


def _messages(details: Mapping[str, Any]) -> list[str]:
    message: str = details["msg"].removeprefix(VALUE_ERROR)
    lines = message.split("\n") if details["type"] == "value_error" else []
    return lines if lines and all(map(PATH_IN_MESSAGE.match, lines)) else [message]


def _fault(kind: str, location: Sequence[str | int], message: str, body: object) -> ProblemField:
    path, value = _descend(body, location)
    if kind in NAMES_THE_KEY and path[-1:] != [location[-1]]:
        path.append(location[-1])
    named = PATH_IN_MESSAGE.match(message)
    if kind == "value_error" and named:
        steps = [int(step) if step.isdigit() else step for step in named.group().split(".")]
        further, _ = _descend(value, steps)
        if len(further) == len(steps):
            path += further
    return ProblemField(pointer=pointer(path), detail=message)


def _descend(value: object, steps: Sequence[str | int]) -> tuple[list[str | int], object]:
    """Follow `steps` into `value`; names that pydantic put in for members of a union lead nowhere."""
    path: list[str | int] = []
    for step in steps:
        in_object = isinstance(value, dict) and step in value
        in_list = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if in_object or in_list:
            value = value[step]  # type: ignore[index]  # one of the two holds
            path.append(step)
    return path, value
