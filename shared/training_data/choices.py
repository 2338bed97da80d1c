"""Multiple choice and classification as text: what is asked and what is answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

from shared.training_data.faults import Item, quoted

NUMBER = re.compile("-?[0-9]{1,9}")
ANSWER_FIELDS = ("answer", "answerKey", "answer_key", "label", "correct")
SENTENCES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("sentence",),
    ("text",),
)


def choice_question(item: Item) -> tuple[str, str, str]:
    """The question with its choices under it, the right choice, and the field that names it.

    Choices are a list of texts, a list of {label, text}, or {label: [...], text: [...]}; the answer is a
    choice's label, its text, or its number from 0 on. Choices without labels get A, B, C, …
    """
    question, choices = question_of(item), choices_of(item)
    field = next((name for name in ANSWER_FIELDS if name in item.fields), None)
    if field is None:
        item.refuse("the field is missing", ANSWER_FIELDS[0])
    right = right_choice(item, field, choices)
    lines = [question.strip(), *(f"{label}. {text}" for label, text in choices), "Answer:"]
    return "\n".join(lines), ". ".join(choices[right]), field


def question_of(item: Item) -> str:
    """The question's text, which some files keep as `stem` of an object or as `question_stem`."""
    question = item.fields.get("question")
    if isinstance(question, dict) and isinstance(question.get("stem"), str):
        return str(question["stem"])
    return item.text("question_stem" if "question_stem" in item.fields else "question")


def choices_of(item: Item) -> list[tuple[str, str]]:
    """The choices, each with its label."""
    found = item.fields.get("choices")
    question = item.fields.get("question")
    if found is None and isinstance(question, dict):
        found = question.get("choices")
    labels: list[object] = []
    if isinstance(found, dict):
        texts, labels = as_list(found.get("text")), as_list(found.get("label"))
    else:
        texts = as_list(found)
        if texts and all(isinstance(choice, dict) for choice in texts):
            labels = [choice.get("label") for choice in texts if isinstance(choice, dict)]
            texts = [choice.get("text") for choice in texts if isinstance(choice, dict)]
    labels = labels or list(ascii_uppercase[: len(texts)])
    pairs = [
        (label, text)
        for label, text in zip(labels, texts, strict=False)
        if isinstance(label, str) and isinstance(text, str) and label.strip() and text.strip()
    ]
    if len(pairs) < 2 or len(pairs) != len(texts):
        item.refuse("must be two or more texts, at most 26 without labels", "choices")
    return pairs


def as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def right_choice(item: Item, field: str, choices: list[tuple[str, str]]) -> int:
    """The index of the right choice."""
    answer = item.fields[field]
    labels, texts = [label for label, _ in choices], [text.strip() for _, text in choices]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        for known in (labels, texts):
            if known.count(answer.strip()) == 1:
                return known.index(answer.strip())
        if NUMBER.fullmatch(answer.strip()) and 0 <= int(answer) < len(choices):
            return int(answer)
    reason = f"'{quoted(answer)}' is no label, text or number (from 0) of the {len(choices)} choices"
    return item.refuse(reason, field)


def sentence_fields(fields: Mapping[str, object]) -> tuple[str, ...]:
    """The fields that hold what is to be classified; none where the record has no such."""
    return next((names for names in SENTENCES if all(name in fields for name in names)), ())


def label_text(item: Item, labels: tuple[str, ...]) -> str:
    """The class in words: of an integer label its name, where names are given, else its digits."""
    label = item.fields.get("label")
    if isinstance(label, str) and not (labels and NUMBER.fullmatch(label.strip())):
        return label
    if isinstance(label, bool) or not isinstance(label, int | str):
        item.refuse(f"must be text or an integer, not {type(label).__name__}", "label")
    number = int(label)
    if not labels:
        return str(number)
    if not 0 <= number < len(labels):
        reason = f"{quoted(number)} is none of the {len(labels)} classes that 'labels' names, from 0 on"
        item.refuse(reason, "label")
    return labels[number]
