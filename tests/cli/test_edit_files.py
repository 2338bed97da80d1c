"""What `holdfast edit` reads: edits, hyperparameters, a directory to write to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.cli.edit_files import (
    UnusableEdits,
    UnusableHyperparameters,
    UnusableOutput,
    choose_edits,
    new_directory,
    read_edits,
    read_hyperparameters,
)
from services.cli.errors import HoldfastError, UnusableRequest
from shared.edits import Edit

FRANCE = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome", "target_true": "Paris"}
SPAIN = {**FRANCE, "subject": "Spain", "target_true": "Madrid"}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def faults(error: HoldfastError) -> list[tuple[str, str]]:
    return [(field.pointer, field.detail) for field in error.fields]


@pytest.mark.parametrize("content", [[FRANCE, SPAIN], {"edits": [FRANCE, SPAIN], "model": "any"}])
def test_edits_are_a_list_or_those_of_a_request(content: Any, tmp_path: Path) -> None:
    found = read_edits(written(tmp_path / "edits.json", content))
    assert [edit.subject for edit in found] == ["France", "Spain"]


def test_edits_may_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    spain = json.dumps({**SPAIN, "relation": "a\N{LINE SEPARATOR}b"}, ensure_ascii=False)
    found = read_edits(written(tmp_path / "edits.jsonl", f"{json.dumps(FRANCE)}\n\n{spain}\n"))
    assert [edit.subject for edit in found] == ["France", "Spain"]


def test_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableEdits, match="line 3, column 2: Expecting property name"):
        read_edits(written(tmp_path / "edits.jsonl", f"{json.dumps(FRANCE)}\n\n{{subject\n"))


@pytest.mark.parametrize("content", [[], {}, {"edits": []}, "3", {"edits": FRANCE}])
def test_file_without_edits_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableEdits, match="holds no edits"):
        read_edits(written(tmp_path / "edits.json", content))


def test_every_edit_at_fault_is_named_with_its_field_and_reason(tmp_path: Path) -> None:
    bad = [
        {**FRANCE, "prompt": "The capital of France is"},
        FRANCE,
        {**FRANCE, "target_new": "paris"},
        {**FRANCE, "answer": "Paris"},
        {"prompt": "The capital of {} is"},
    ]
    with pytest.raises(UnusableEdits) as caught:
        read_edits(written(tmp_path / "edits.json", bad))
    found = faults(caught.value)
    assert found[:3] == [
        ("/0/prompt", "prompt: must contain '{}' exactly once, in place of the subject"),
        ("/2/target_new", "target_new: is the same as target_true"),
        ("/3/answer", "Extra inputs are not permitted"),
    ]
    assert [pointer for pointer, _ in found[3:]] == ["/4/subject", "/4/target_new", "/4/target_true"]


def test_of_many_faults_the_first_are_told_and_how_many_more(tmp_path: Path) -> None:
    with pytest.raises(UnusableEdits) as caught:
        read_edits(written(tmp_path / "edits.json", [{**FRANCE, "colour": 1}] * 50))
    found = faults(caught.value)
    assert len(found) == 21
    assert [found[0][0], found[19][0], found[20]] == ["/0/colour", "/19/colour", ("…", "and 30 more")]


def edits(*records: dict[str, str]) -> list[Edit]:
    return [Edit.model_validate(record) for record in records]


def test_chosen_edits_keep_their_indices() -> None:
    chosen = choose_edits(edits(FRANCE, SPAIN, {**SPAIN, "subject": "Italy"}), "2, 0")
    assert {index: edit.subject for index, edit in chosen.items()} == {0: "France", 2: "Italy"}


def test_index_that_the_file_does_not_have_is_named() -> None:
    with pytest.raises(UnusableEdits, match=r"no edit 2, 7: The file holds edits 0 to 1\."):
        choose_edits(edits(FRANCE, SPAIN), "0,2,7")


@pytest.mark.parametrize("only", ["", "one", "1-3", "-1", "0,,1", "²"])
def test_what_is_no_list_of_indices_is_refused(only: str) -> None:
    with pytest.raises(UnusableEdits, match="is no list of edits"):
        choose_edits(edits(FRANCE, SPAIN), only)


def test_all_edits_that_disagree_are_named() -> None:
    asked = edits(FRANCE, SPAIN, {**FRANCE, "target_new": "Lyon"}, SPAIN)
    with pytest.raises(UnusableEdits) as caught:
        choose_edits(asked, None)
    assert faults(caught.value) == [
        ("/2", "edits.2 conflicts with edits.0: 'The capital of France is'"),
        ("/3", "edits.3 repeats edits.1: 'The capital of Spain is'"),
    ]
    assert list(choose_edits(asked, "1,2")) == [1, 2]


def test_published_runs_name_their_edits_which_is_no_hyperparameter(tmp_path: Path) -> None:
    file = written(tmp_path / "hyperparameters.json", {"layers": [1], "edits": [0, 1]})
    assert read_hyperparameters(file, "ft_l") == {"layers": [1]}


def test_hyperparameters_at_fault_are_named(tmp_path: Path) -> None:
    file = written(tmp_path / "hyperparameters.json", {"lr": -1, "colour": "red", "layers": [2, 1]})
    with pytest.raises(UnusableHyperparameters) as caught:
        read_hyperparameters(file, "ft_l")
    assert {pointer for pointer, _ in faults(caught.value)} == {"/layers", "/lr", "/colour"}
    assert "norm_constraint" in caught.value.hint


def test_hyperparameters_that_are_no_object_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableHyperparameters, match="not a JSON object"):
        read_hyperparameters(written(tmp_path / "hyperparameters.json", "[1]"), "ft_l")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableRequest, match=r"missing\.json: No such file"):
        read_hyperparameters(tmp_path / "missing.json", "ft_l")


def test_directory_appears_when_all_is_written(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "out"
    with new_directory(out) as directory:
        (directory / "file").write_text("content")
        assert not out.exists()
    assert (out / "file").read_text() == "content"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_directory_may_be_there_if_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_directory(tmp_path / "out") as directory:
        (directory / "file").write_text("content")
    assert (tmp_path / "out" / "file").exists()


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "file").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out") as directory:
        fail(directory)
    assert list(tmp_path.iterdir()) == []


def test_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "file", "mine")
    with pytest.raises(UnusableOutput, match="is there already"), new_directory(tmp_path):
        pytest.fail("it was used")
    with pytest.raises(UnusableOutput, match="is there already"), new_directory(tmp_path / "file"):
        pytest.fail("it was used")


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    written(tmp_path / "file", "mine")
    with (
        pytest.raises(UnusableOutput, match=r"Cannot write to .*file/out: File exists"),
        new_directory(tmp_path / "file" / "out"),
    ):
        pytest.fail("it was used")


def test_written_files_are_as_open_as_new_ones(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with new_directory(tmp_path / "out") as directory:
            (directory / "file").touch(mode=0o600)
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "file").stat().st_mode & 0o777 == 0o644
