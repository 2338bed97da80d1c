"""Records are told apart by their fields, and become what their objective learns from.

The records are written in the layouts of OpenAI's fine-tuning files, ShareGPT, Alpaca, Dolly, GSM8K, MMLU,
ARC, OpenBookQA, SST-2, MNLI, and the preference files of TRL and LLaMA-Factory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.recipes import (
    ChatRecord,
    InstructionRecord,
    Objective,
    PreferenceRecord,
    TextRecord,
    TrainingData,
)
from shared.training_data import Item, Origins, RecordReader, UnusableTrainingData, read_corpus
from shared.training_data.shapes import KNOWN_FIELDS, natural_objective

INSTRUCTIONS, PREFERENCE, TEXT = Objective.INSTRUCTIONS, Objective.PREFERENCE, Objective.CAUSAL_LM
CHOICES = "Which is a star?\nA. Moon\nB. Sun\nAnswer:"


def shaped(objective: Objective, fields: object, labels: tuple[str, ...] = ()) -> object:
    record = RecordReader(objective, labels).record(Item(fields, "file:a.json", index=4))
    if isinstance(fields, dict):  # what readers of columns leave out makes no difference
        known = {name: value for name, value in fields.items() if name in KNOWN_FIELDS}
        assert RecordReader(objective, labels).record(Item(known, "file:a.json", index=4)) == record
    return record


def refused(objective: Objective, fields: object, labels: tuple[str, ...] = ()) -> UnusableTrainingData:
    with pytest.raises(UnusableTrainingData) as caught:
        shaped(objective, fields, labels)
    assert caught.value.index == 4
    return caught.value


@pytest.mark.parametrize(
    ("fields", "prompt", "completion"),
    [
        ({"prompt": "p", "completion": "c", "id": 1}, "p", "c"),
        ({"prompt": "p", "response": "c"}, "p", "c"),
        ({"instruction": "i", "input": "x", "output": "o"}, "i\n\nx", "o"),
        ({"instruction": "i", "context": "x", "response": "o", "category": "qa"}, "i\n\nx", "o"),
        ({"question": "q", "answer": "a"}, "q", "a"),
        ({"question": "Which is a star?", "choices": ["Moon", "Sun"], "answer": 1}, CHOICES, "B. Sun"),
        ({"question": "Which is a star?", "choices": ["Moon", "Sun"], "answer": "Sun"}, CHOICES, "B. Sun"),
        ({"question": "Which is a star?", "choices": ["Moon", "Sun"], "label": "B"}, CHOICES, "B. Sun"),
        (
            {
                "question": "Which is a star?",
                "choices": {"text": ["Moon", "Sun"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            CHOICES,
            "B. Sun",
        ),
        (
            {
                "question": {
                    "stem": "Which is a star?",
                    "choices": [{"text": "Moon", "label": "A"}, {"text": "Sun", "label": "B"}],
                },
                "answerKey": "B",
            },
            CHOICES,
            "B. Sun",
        ),
        (
            {
                "question_stem": "Which is a star?",
                "choices": {"text": ["Moon", "Sun"], "label": ["1", "2"]},
                "answerKey": "2",
            },
            "Which is a star?\n1. Moon\n2. Sun\nAnswer:",
            "2. Sun",
        ),
        ({"sentence": "good fun ", "label": 1, "idx": 7}, "good fun\n\nLabel:", "1"),
        ({"text": "good fun", "label": "positive"}, "good fun\n\nLabel:", "positive"),
        ({"premise": "p", "hypothesis": "h", "label": 0}, "p\nh\n\nLabel:", "0"),
    ],
)
def test_layout_becomes_prompt_and_completion(fields: object, prompt: str, completion: str) -> None:
    assert shaped(INSTRUCTIONS, fields) == InstructionRecord(prompt=prompt, completion=completion)


def test_integer_labels_get_their_names() -> None:
    record = shaped(INSTRUCTIONS, {"sentence": "fun", "label": 1}, labels=("negative", "positive"))
    assert isinstance(record, InstructionRecord)
    assert record.completion == "positive"
    assert refused(INSTRUCTIONS, {"sentence": "fun", "label": -1}, ("negative", "positive")).field == "label"


@pytest.mark.parametrize("label", ["--1", "9" * 5_000, "٣"])
def test_a_label_that_is_no_small_number_is_the_word_for_its_class(label: str) -> None:
    record = shaped(INSTRUCTIONS, {"sentence": "fun", "label": label}, labels=("negative", "positive"))
    assert isinstance(record, InstructionRecord)
    assert record.completion == label


@pytest.mark.parametrize("answer", ["--1", "-1", "9" * 5_000, ["x" * 5_000] * 500])
def test_an_answer_that_is_no_choice_is_quoted_in_part(answer: object) -> None:
    fault = refused(INSTRUCTIONS, {"question": "q", "choices": ["a", "b"], "answer": answer})
    assert fault.field == "answer"
    assert len(fault.reason) < 150


def test_a_speaker_that_nobody_knows_is_quoted_in_part() -> None:
    fault = refused(INSTRUCTIONS, {"messages": [{"role": "r" * 5_000, "content": "c"}]})
    assert f"not '{'r' * 79}…'" in fault.reason


def test_text_of_a_labelled_record_is_plain_text_for_causal_lm() -> None:
    assert shaped(TEXT, {"text": "good fun", "label": 1}) == TextRecord(text="good fun")


CHAT = ChatRecord.model_validate(
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
        ]
    }
)


@pytest.mark.parametrize(
    "fields",
    [
        CHAT.model_dump(mode="json"),
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "u"},
                {"from": "gpt", "value": "a"},
            ]
        },
        {"system": "s", "conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {"role": "assistant", "content": "a", "refusal": None},
            ]
        },
    ],
)
def test_every_layout_of_a_chat_is_the_same_chat(fields: object) -> None:
    assert shaped(INSTRUCTIONS, fields) == CHAT


TURNS = [{"role": "user", "content": "u"}]


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": "u", "chosen": "good", "rejected": "bad"}, "u"),
        ({"instruction": "i", "input": "x", "chosen": "good", "rejected": "bad"}, "i\n\nx"),
        ({"question": "u", "chosen": "good", "rejected": "bad", "score": 3}, "u"),
        (
            {
                "prompt": TURNS,
                "chosen": [{"role": "assistant", "content": "good"}],
                "rejected": [{"role": "assistant", "content": "bad"}],
            },
            TURNS,
        ),
        (
            {
                "conversations": [{"from": "human", "value": "u"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            TURNS,
        ),
    ],
)
def test_layout_becomes_a_preference(fields: object, prompt: object) -> None:
    expected = {"prompt": prompt, "chosen": "good", "rejected": "bad"}
    assert shaped(PREFERENCE, fields) == PreferenceRecord.model_validate(expected)


@pytest.mark.parametrize(
    ("objective", "fields", "field"),
    [
        (INSTRUCTIONS, {"messages": "hello"}, "messages"),
        (INSTRUCTIONS, {"messages": [{"role": "tool", "content": "4"}]}, "messages.0"),
        (INSTRUCTIONS, {"messages": [*TURNS, {"role": "assistant", "content": None}]}, "messages.1"),
        (INSTRUCTIONS, {"messages": TURNS}, "messages"),
        (INSTRUCTIONS, {"conversations": []}, "conversations"),
        (INSTRUCTIONS, {"question": "q", "choices": ["a", "b"]}, "answer"),
        (INSTRUCTIONS, {"question": "q", "choices": ["a", "b"], "answer": 2}, "answer"),
        (INSTRUCTIONS, {"question": "q", "choices": ["a", "b"], "answer": "c"}, "answer"),
        (INSTRUCTIONS, {"question": "q", "choices": ["a"], "answer": 0}, "choices"),
        (INSTRUCTIONS, {"question": "q", "choices": ["a", 3], "answer": 0}, "choices"),
        (INSTRUCTIONS, {"sentence": "s", "label": None}, "label"),
        (INSTRUCTIONS, {"sentence": "s"}, "prompt"),
        (PREFERENCE, {"prompt": "p", "completion": "c"}, "chosen"),
        (PREFERENCE, {"chosen": "a", "rejected": "b"}, "prompt"),
        (PREFERENCE, {"prompt": "p", "chosen": "a", "rejected": 3}, "rejected"),
        (PREFERENCE, {"prompt": "p", "chosen": {"role": "user", "content": "a"}, "rejected": "b"}, "chosen"),
        (PREFERENCE, {"prompt": "p", "chosen": TURNS * 2, "rejected": "b"}, "chosen"),
    ],
)
def test_what_is_at_fault_is_named(objective: Objective, fields: object, field: str) -> None:
    assert refused(objective, fields).field == field


@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        (INSTRUCTIONS, {"messages": [*TURNS, {"role": "assistant", "content": " "}]}),
        (INSTRUCTIONS, {"sentence": " ", "label": 1}),
        (PREFERENCE, {"prompt": "p", "chosen": "", "rejected": "b"}),
        (PREFERENCE, {"prompt": [{"role": "user", "content": ""}], "chosen": "a", "rejected": "b"}),
    ],
)
def test_blank_records_are_passed_over(objective: Objective, fields: object) -> None:
    assert shaped(objective, fields) is None


def test_mixed_shapes_are_refused_at_the_first_other_one(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "p", "completion": "c"},
        {"instruction": "i", "output": "o"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(UnusableTrainingData, match="has the shape 'instruction") as caught:
        read_corpus(TrainingData(source="file:a.json"), INSTRUCTIONS, Origins(data_roots=[tmp_path]))
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("fields", "objective"),
    [
        ({"text": "t"}, TEXT),
        ({"anything": 1}, TEXT),
        ({"sentence": "s", "label": 1}, INSTRUCTIONS),
        ({"messages": TURNS}, INSTRUCTIONS),
        ({"prompt": "p", "completion": "c"}, INSTRUCTIONS),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, PREFERENCE),
    ],
)
def test_fields_speak_of_an_objective(fields: object, objective: Objective) -> None:
    assert natural_objective(Item(fields, "here")) is objective
