"""Choosing among the media types that an answer can have (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from services.api.problems import NotAcceptable

JSON = "application/json"
CSV = "text/csv"
HTML = "text/html"
EVENT_STREAM = "text/event-stream"


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """The offer that `accept` prefers; the first of several that it likes as well.

    Raises:
        NotAcceptable: it wants none of them.
    """
    if not accept or not accept.strip():
        return offers[0]
    ranges = [_media_range(part) for part in accept.split(",")]
    quality, chosen = max(
        ((_quality(offer, ranges), offer) for offer in offers), key=lambda ranked: ranked[0]
    )
    if quality <= 0:
        raise NotAcceptable(offers)
    return chosen


def _media_range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_type, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media_type, 0.0
    return media_type, 1.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers `offer`; 0 where none does."""
    for wanted in (offer, offer.split("/")[0] + "/*", "*/*"):
        qualities = [quality for media_range, quality in ranges if media_range == wanted]
        if qualities:
            return max(qualities)
    return 0.0
