"""Training data is read from three origins, and bad data is refused with the place that is at fault."""

import json
from pathlib import Path

import pytest

from shared.docstrings import (
    PRETRAINING_MODULES,
    TUNING_MODULES,
    docstring_paragraphs,
    source_of,
)
from shared.recipes import InstructionRecord, Objective, TextRecord, TrainingData
from shared.training_data import (
    Origins,
    UnusableTrainingData,
    content_hash,
    formats,
    read_records,
    split_held_out,
)

TEXT = Objective.CAUSAL_LM
INSTRUCTIONS = Objective.INSTRUCTIONS


def read(root: Path, name: str, objective: Objective = TEXT, limit: int | None = None) -> list[object]:
    return list(
        read_records(TrainingData(source=f"file:{name}", limit=limit), objective, Origins(data_roots=[root]))
    )


def refusal(root: Path, name: str, objective: Objective = TEXT) -> UnusableTrainingData:
    with pytest.raises(UnusableTrainingData) as caught:
        read(root, name, objective)
    return caught.value


def texts(count: int) -> list[TextRecord]:
    return [TextRecord(text=f"sentence {number}") for number in range(count)]


def test_inline_records_come_back_as_given() -> None:
    records = tuple(texts(3))
    assert read_records(TrainingData(records=records), TEXT, Origins()) == list(records)


def test_every_docstring_module_has_source_in_this_python() -> None:
    assert [module for module in PRETRAINING_MODULES + TUNING_MODULES if source_of(module) is None] == []


def test_pretraining_and_tuning_modules_are_disjoint() -> None:
    assert set(PRETRAINING_MODULES).isdisjoint(TUNING_MODULES)


def test_docstrings_are_three_quarters_for_pretraining_and_enough_for_both() -> None:
    pretraining = sum(map(len, docstring_paragraphs(PRETRAINING_MODULES)))
    tuning = sum(map(len, docstring_paragraphs(TUNING_MODULES)))
    assert pretraining + tuning > 600_000
    assert 0.7 < pretraining / (pretraining + tuning) < 0.8


def test_builtin_docstrings_are_plain_distinct_sentences() -> None:
    records = read_records(TrainingData(source="builtin:docstrings"), TEXT, Origins())
    found = [record.text for record in records if isinstance(record, TextRecord)]
    assert len(found) == len(set(found)) > 1000
    assert all(text[0].isupper() and text.endswith(".") and "\n" not in text for text in found)


def test_docstrings_are_refused_for_instructions() -> None:
    with pytest.raises(UnusableTrainingData) as caught:
        read_records(TrainingData(source="builtin:docstrings"), INSTRUCTIONS, Origins())
    assert caught.value.field == "prompt"


def test_text_file_gives_a_record_per_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\nstill one\n\n \ntwo\n", encoding="utf-8")
    assert read(tmp_path, "a.txt") == [TextRecord(text="one\nstill one"), TextRecord(text="two")]


def test_json_lines_ignore_other_fields_blank_lines_and_blank_texts(tmp_path: Path) -> None:
    lines = ['{"text": "one", "id": 7}', "", '{"text": " "}', '{"text": "two\u2028still two"}\r', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read(tmp_path, "a.jsonl") == [TextRecord(text="one"), TextRecord(text="two\u2028still two")]


def test_input_of_an_instruction_follows_it_where_there_is_one(tmp_path: Path) -> None:
    content = [
        {"instruction": "i", "input": "x", "output": "o"},
        {"instruction": "j", "input": "", "output": "o", "text": "ignored"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    assert read(tmp_path, "a.json", INSTRUCTIONS) == [
        InstructionRecord(prompt="i\n\nx", completion="o"),
        InstructionRecord(prompt="j", completion="o"),
    ]


def test_limit_stops_before_later_records_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nnot json\n', encoding="utf-8")
    assert len(read(tmp_path, "a.jsonl", limit=2)) == 2


def test_file_is_found_in_the_second_root(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    data = TrainingData(source="file:a.txt")
    assert len(read_records(data, TEXT, Origins(data_roots=[tmp_path / "missing", tmp_path / "b"]))) == 2


@pytest.mark.parametrize(
    ("content", "objective", "line", "field"),
    [
        ('{"text": "a"}\n{"txt": "b"}', TEXT, 2, "text"),
        ('{"text": "a"}\n\n{"text": 3}', TEXT, 3, "text"),
        ('{"text": null}', TEXT, 1, "text"),
        ('["a"]', TEXT, 1, None),
        ('{"text": "a"', TEXT, 1, None),
        ('{"text": "a", "score": NaN}', TEXT, 1, None),
        ('{"text": "a", "score": -Infinity}', TEXT, 1, None),
        ('{"text": "\\ud800"}', TEXT, 1, "text"),
        ("[" * 100_000, TEXT, 1, None),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", TEXT, 1, None),
        ('{"text": "' + "a" * 5_000_001 + '"}', TEXT, 1, "text"),
        ('{"text": "a"}', INSTRUCTIONS, 1, "prompt"),
        ('{"prompt": "a"}', INSTRUCTIONS, 1, "completion"),
        ('{"instruction": "a"}', INSTRUCTIONS, 1, "output"),
        ('{"instruction": "a", "input": 1, "output": "b"}', INSTRUCTIONS, 1, "input"),
        ('{"instruction": "a", "output": "' + "b" * 100_001 + '"}', INSTRUCTIONS, 1, "output"),
    ],
)
def test_bad_line_is_named(
    tmp_path: Path, content: str, objective: Objective, line: int, field: str | None
) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    error = refusal(tmp_path, "a.jsonl", objective)
    assert (error.source, error.line, error.field) == ("file:a.jsonl", line, field)


def test_bad_entry_of_a_json_list_is_named_by_its_index(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": []}]', encoding="utf-8")
    error = refusal(tmp_path, "a.json")
    assert (error.index, error.field) == (1, "text")


def test_json_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "a"}', encoding="utf-8")
    assert "list" in refusal(tmp_path, "a.json").reason


def test_syntax_error_of_a_json_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"},\n{"text": }]', encoding="utf-8")
    assert refusal(tmp_path, "a.json").line == 2


def test_bytes_that_are_not_utf8_name_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo \xff\n")
    assert refusal(tmp_path, "a.txt").line == 3


def test_fewer_than_two_distinct_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\none\n\none", encoding="utf-8")
    assert refusal(tmp_path, "a.txt").reason.startswith("1 distinct")


def test_file_over_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 10)
    (tmp_path / "a.txt").write_text("one two\n\nthree", encoding="utf-8")
    assert "larger" in refusal(tmp_path, "a.txt").reason


@pytest.mark.parametrize(
    "name", ["../secret.txt", "a/../../secret.txt", "..\\secret.txt", "a\0.txt", "missing.txt"]
)
def test_name_that_leads_nowhere_in_the_root_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("one\n\ntwo", encoding="utf-8")
    (tmp_path / "root" / "a").mkdir(parents=True)
    assert refusal(tmp_path / "root", name).line is None


def test_absolute_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert "data root" in refusal(tmp_path, str(tmp_path / "a.txt")).reason


def test_symbolic_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("one\n\ntwo", encoding="utf-8")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert "no such file" in refusal(tmp_path / "root", "a.txt").reason


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(b"one")
    assert ".jsonl" in refusal(tmp_path, "a.pickle").reason


def test_content_hash_follows_content_and_order() -> None:
    records = texts(3)
    assert content_hash(records) == content_hash(texts(3))
    assert content_hash(records) != content_hash(records[::-1])


@pytest.mark.parametrize(("count", "share", "held_out"), [(2, 0.01, 1), (2, 0.99, 1), (100, 0.1, 10)])
def test_held_out_side_has_its_share_and_neither_side_is_empty(
    count: int, share: float, held_out: int
) -> None:
    training, kept_out = split_held_out(texts(count), share)
    assert (len(training), len(kept_out)) == (count - held_out, held_out)


def test_side_of_a_record_does_not_depend_on_its_position() -> None:
    records = texts(50)
    assert set(split_held_out(records, 0.2)[1]) == set(split_held_out(records[::-1], 0.2)[1])


def test_another_seed_holds_out_other_records() -> None:
    assert split_held_out(texts(50), 0.2, seed=0)[1] != split_held_out(texts(50), 0.2, seed=1)[1]


def test_copies_of_a_record_never_stand_on_both_sides() -> None:
    training, held_out = split_held_out(texts(10) * 3, 0.3)
    assert set(training).isdisjoint(held_out)
    assert len(training) + len(held_out) == 30
