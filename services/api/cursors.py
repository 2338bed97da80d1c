"""Opaque places in a list, handed out with one page and sent back for the next."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from services.api.problems import InvalidRequest
from shared.views import ProblemField

CursorT = TypeVar("CursorT", bound=BaseModel)


def encode(place: BaseModel) -> str:
    """`place` as text that fits in a URL."""
    return base64.urlsafe_b64encode(place.model_dump_json().encode()).rstrip(b"=").decode()


def decode(kind: type[CursorT], cursor: str) -> CursorT:
    """The place that `encode` made `cursor` from.

    Raises:
        InvalidRequest: it was not made here.
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        return kind.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValidationError, UnicodeEncodeError):
        fault = ProblemField(pointer="/query/cursor", detail="is not a cursor from an earlier page")
        raise InvalidRequest([fault]) from None
