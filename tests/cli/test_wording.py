from __future__ import annotations

import pytest

from services.cli.wording import duration, percent


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration_is_given_in_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.784, "78 %"), (0.998, "99.8 %"), (0.002, "0.2 %"), (None, "—")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text
