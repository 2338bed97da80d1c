"""English comes from docstrings or from a file, and some of it is never trained on."""

from pathlib import Path

from services.worker.almanac.english import (
    held_out_english,
    is_held_out,
    prose_paragraphs,
    training_english,
)


def test_code_lists_and_fragments_are_no_prose() -> None:
    prose = "Return the number of items that the caller may still take."
    assert prose_paragraphs(f"{prose}\n\n>>> f(1)\n2\n\na = b + c\n\nToo short.") == [prose]


def test_training_never_sees_the_paragraphs_that_are_held_out() -> None:
    trained, held_out = training_english(), held_out_english()
    assert len(trained) > 1_000
    assert len(held_out) > 100
    assert set(trained).isdisjoint(held_out)


def test_a_file_takes_the_docstrings_place(tmp_path: Path) -> None:
    lines = [f"There are {number} of them, and every one has a name of its own." for number in range(40)]
    source = tmp_path / "english.txt"
    source.write_text("\n\n".join(lines), encoding="utf-8")
    assert sorted(training_english(source) + held_out_english(source)) == sorted(lines)
    assert 0 < sum(map(is_held_out, lines)) < len(lines)
