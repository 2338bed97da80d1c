"""Reading a JSON body: bounded, strict, and with the reason when it is refused."""

from __future__ import annotations

import email.message
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from fastapi import Request

from services.api.problems import BodyTooLarge, InvalidRequest, MalformedBody, UnsupportedMediaType
from services.api.validation import pointer
from shared.views import ProblemField

MAX_DEPTH = 32
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


async def read_json(request: Request, max_bytes: int) -> bytes:
    """The body as it was sent, which must be declared as JSON.

    Raises:
        UnsupportedMediaType: it is not.
        BodyTooLarge: see `read_bounded`.
    """
    require_json(request)
    return await read_bounded(request, max_bytes)


async def read_bounded(request: Request, max_bytes: int) -> bytes:
    """The body as it was sent, never holding more than `max_bytes` of it.

    Raises:
        BodyTooLarge: it is longer, whether it says so beforehand or not.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise BodyTooLarge(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLarge(max_bytes)
    return bytes(body)


def require_json(request: Request) -> None:
    """Raise `UnsupportedMediaType` unless the body is declared as JSON in UTF-8."""
    header = email.message.Message()
    header["content-type"] = request.headers.get("content-type", "")
    charset = str(header.get_param("charset", "utf-8")).lower()
    if header.get_content_type() != "application/json" or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType


def parse_json(body: bytes) -> Any:
    """The JSON value in `body`.

    Raises:
        MalformedBody: not JSON, not UTF-8, nested too deeply, a key twice in one object, or a number
            that is none.
        InvalidRequest: text that cannot be stored.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: wrong byte at offset {error.start}.") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise MalformedBody(f"The body is nested more than {MAX_DEPTH} levels deep.") from None
    except ValueError:  # the interpreter's limit on the digits of an integer
        raise MalformedBody("The body has an integer with too many digits.") from None
    _check_depth(value)
    if "\\u" in text:  # nothing else in valid UTF-8 and JSON can stand for what no database stores
        _check_text(value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise MalformedBody(f"An object has the key '{_printable(name)}' twice.")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBody(f"{name} is not JSON.")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise MalformedBody(f"The number {digits[:40]} is too large.")
    return value


def _check_depth(value: Any) -> None:
    """Refuse what is nested so deeply that handling it further could exhaust the stack."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for container in level for inner in _members(container)]
        if not level:
            return
    raise MalformedBody(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _members(container: Any) -> Iterator[Any]:
    if isinstance(container, dict):
        yield from container.values()
    elif isinstance(container, list):
        yield from container


def _check_text(value: Any, path: tuple[str | int, ...] = ()) -> None:
    """Refuse NUL and lone surrogates, in keys too, and say where."""
    if isinstance(value, str) and UNSTORABLE.search(value):
        detail = "must not contain NUL or half of a surrogate pair"
        raise InvalidRequest([ProblemField(pointer=pointer(path), detail=detail)])
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _check_text(inner, (*path, index))
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, (*path, _printable(key)))
            _check_text(inner, (*path, key))


def _printable(text: str) -> str:
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text[:64])
