from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.errors import UnusableRequest
from services.cli.request_file import read_request


def test_request_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text('{"model": "builtin:almanac"}')

    assert read_request(file) == {"model": "builtin:almanac"}


def test_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text("{}", encoding="utf-8-sig")

    assert read_request(file) == {}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableRequest, match=r"missing\.json: No such file"):
        read_request(tmp_path / "missing.json")


def test_directory_is_no_request(tmp_path: Path) -> None:
    with pytest.raises(UnusableRequest, match="Is a directory"):
        read_request(tmp_path)


def test_broken_json_is_shown_with_line_column_and_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text('{\n  "model": builtin\n}')

    with pytest.raises(UnusableRequest) as caught:
        read_request(file)
    message, line, mark = caught.value.detail.split("\n")
    assert message.startswith("line 2, column 12:")
    assert line[mark.index("^")] == "b"


def test_fault_far_into_a_long_line_is_still_shown(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text('{"edits": [' + "1, " * 5000 + "?]}")

    with pytest.raises(UnusableRequest) as caught:
        read_request(file)
    _, line, mark = caught.value.detail.split("\n")
    assert len(line) < 80
    assert line[mark.index("^")] == "?"


def test_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text("[" * 100_000)

    with pytest.raises(UnusableRequest, match="nested too deeply"):
        read_request(file)


def test_empty_file_is_broken_json(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text("")

    with pytest.raises(UnusableRequest, match="line 1, column 1"):
        read_request(file)


def test_file_that_is_not_utf_8_is_named_with_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_bytes(b'{"model": "\xff"}')

    with pytest.raises(UnusableRequest, match="byte 11"):
        read_request(file)
