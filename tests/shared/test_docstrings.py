"""Docstrings can be read by several threads at once, as the gateway's are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shared.docstrings import TUNING_MODULES, cached_paragraphs, docstring_paragraphs


def test_threads_that_read_at_once_all_get_the_same_paragraphs() -> None:
    cached_paragraphs.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(docstring_paragraphs, [TUNING_MODULES[:6]] * 4))
    assert found == [found[0]] * 4
