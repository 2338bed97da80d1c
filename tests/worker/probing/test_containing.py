"""The mode `contains` looks for the whole answer in what greedy decoding writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from services.worker.language_models.batching import encode_prompts
from services.worker.probing import containing
from services.worker.probing.containing import contains, with_contains
from services.worker.probing.scoring import score
from shared.measurement import FactKind, Mode, ProbeKind
from tests.worker.probing.test_generation import NEW_TOKENS, written_by_transformers
from tests.worker.probing.test_scoring import language_model, probe, some_probes


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It is in  PARIS, France", "Paris", True),
        ("the new\nyork times", "New York", True),
        ("the New Yorker", "New York", False),
        ("Nigeria", "Niger", False),
        ("Romeo met", "Rome", False),
        ("born in 1998", "19", False),
        ("法国的首都是巴黎的", "巴黎", True),
        ("written in C++ by", "C++", True),
        ("", "Rome", False),
        ("ＲＯＭＥ it is", "rome", True),
    ],
)
def test_a_whole_answer_is_found_whatever_its_case_and_spaces(text: str, answer: str, expected: bool) -> None:
    assert contains(text, answer) is expected


def test_a_word_at_the_end_of_an_unfinished_text_may_go_on() -> None:
    assert not contains("in Niger", "Niger", unfinished=True)
    assert contains("in Niger.", "Niger", unfinished=True)
    assert contains("in Niger", "Niger")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("in Nigeria", False),
        ("in Niger and", True),
        ("in Niger\0", True),  # the end of the text
        ("in Niger’s", True),  # three bytes
        ("in Nigeré", False),
        ("in Niger", False),  # the model has no more positions
        ("in the Niger.", False),
    ],
)
def test_word_that_the_last_token_cuts_is_read_on_and_the_answer_is_not_in_it(
    written: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language_model("gpt2")

    def write(
        _model: object,
        prompts: Sequence[object],
        room: Sequence[int],
        settled: Callable[[int, Sequence[int]], bool],
        **_settings: object,
    ) -> list[list[int]]:
        tokens: list[int] = []
        for token in written.encode():
            tokens.append(token)
            if token == 0 or len(tokens) == room[0] or settled(0, tokens):
                break
        return [tokens]

    def decode(tokens: Sequence[int], **_settings: object) -> str:
        return bytes(tokens).rstrip(b"\0").decode(errors="replace")

    asked = [probe("The city of", "Niger")]
    scores = score(model, asked)
    monkeypatch.setattr(containing, "write_greedily", write)
    monkeypatch.setattr(model.tokenizer, "decode", decode)
    (found,) = with_contains(model, asked, scores, len("in Niger"))
    assert found.contains is expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "gemma2", "opt"])
def test_contains_is_that_the_text_of_transformers_has_the_answer(family: str) -> None:
    model = language_model(family)
    asked, texts = [], {}
    for number, given in enumerate(some_probes()[::2]):
        (prompt,) = encode_prompts(model.tokenizer, [given.prompt])
        written = written_by_transformers(model, prompt, NEW_TOKENS)
        texts[given.prompt] = model.tokenizer.decode(written, skip_special_tokens=True)
        words = texts[given.prompt].split()
        said = words[number % len(words)] if words else "Oslo"  # ids beyond the tokenizer's have no text
        asked += [replace(given, answer=said), given]
    scores = with_contains(model, asked, score(model, asked), NEW_TOKENS)
    for given, found in zip(asked, scores, strict=True):
        assert found.contains is contains(texts[given.prompt], given.answer)
        assert found.right(Mode.CONTAINS) is found.contains
    assert {found.contains for found in scores} == {True, False}


def test_one_prompt_asked_for_several_answers_is_written_on_until_all_are_found() -> None:
    model = language_model("llama")
    (prompt,) = encode_prompts(model.tokenizer, ["The city of"])
    words = model.tokenizer.decode(written_by_transformers(model, prompt, NEW_TOKENS)).split()
    asked = [probe("The city of", words[0], index=0), probe("The city of", words[-1], index=1)]
    assert [found.contains for found in with_contains(model, asked, score(model, asked), NEW_TOKENS)] == [
        True,
        True,
    ]


def test_only_the_facts_own_prompts_are_continued_of_edits_and_of_controls() -> None:
    model = language_model("gpt2")
    asked = [
        replace(probe("The city of", "Rome"), fact_kind=kind, probe_kind=probe_kind)
        for kind in FactKind
        for probe_kind in ProbeKind
    ]
    scored = with_contains(model, asked, score(model, asked), 3)
    assert [given for given, found in zip(asked, scored, strict=True) if found.contains is not None] == [
        given for given in asked if given.probe_kind is ProbeKind.REWRITE
    ]
