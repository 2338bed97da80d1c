"""Numbers as people read them."""

from __future__ import annotations

MINUS = "−"


def percent(share: float) -> str:
    """0.934 → "93.4 %"."""
    return f"{100 * share:.1f} %".replace("-", MINUS)


def points(difference: float) -> str:
    """A difference of shares: 0.123 → "12.3 points" (percentage points)."""
    return f"{100 * difference:.1f} points".replace("-", MINUS)
