"""The shapes in which people keep records, told apart by their fields, and what each becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from shared.recipes import (
    ChatRecord,
    InstructionRecord,
    Objective,
    PreferenceRecord,
    TextRecord,
    TrainingRecord,
)
from shared.training_data.chats import answer_text, chat_field, messages_of
from shared.training_data.choices import (
    ANSWER_FIELDS,
    SENTENCES,
    choice_question,
    label_text,
    sentence_fields,
)
from shared.training_data.faults import Item

Record = TypeVar("Record", TextRecord, InstructionRecord, ChatRecord, PreferenceRecord)
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """name: for people; fields: what it is recognised by; record: what an item becomes, None when blank.

    `record` is given the names of integer labels, which one shape needs.
    """

    name: str
    recognised: Callable[[Mapping[str, object]], bool]
    record: Callable[[Item, Labels], TrainingRecord | None]


def shape_of(item: Item, objective: Objective) -> Shape:
    """The first of the objective's shapes that the item's fields have; refuses an item of none."""
    shapes = SHAPES[objective]
    found = next((shape for shape in shapes if shape.recognised(item.fields)), None)
    if found is None:
        known = "; ".join(shape.name for shape in shapes)
        reason = f"objective '{objective}' needs records of one of these shapes: {known}"
        item.refuse(reason, HEADS[objective])
    return found


def natural_objective(item: Item) -> Objective:
    """The objective that an item's fields speak of."""
    for objective in (Objective.PREFERENCE, Objective.INSTRUCTIONS):
        if any(shape.recognised(item.fields) for shape in SHAPES[objective]):
            return objective
    return Objective.CAUSAL_LM


def text_record(item: Item, _labels: Labels = ()) -> TextRecord | None:
    """Plain text."""
    text = item.text("text")
    return build(TextRecord, item, text=(text, "text")) if text.strip() else None


def pair_shape(prompt: str, completion: str, context: str | None = None) -> Shape:
    """A prompt and its completion by these names; a context, where there is one, follows the prompt."""

    def record(item: Item, _labels: Labels) -> InstructionRecord | None:
        asked, answered = item.text(prompt), item.text(completion)
        if context is not None and item.fields.get(context) is not None:
            given = item.text(context)
            asked = f"{asked}\n\n{given}" if given.strip() else asked
        return instruction(item, (asked, prompt), (answered, completion))

    middle = f" + {context}" if context else ""
    return Shape(
        f"{prompt}{middle} + {completion}",
        lambda fields: prompt in fields and (completion in fields or completion == PLAINEST.get(prompt)),
        record,
    )


def instruction(item: Item, prompt: tuple[str, str], completion: tuple[str, str]) -> InstructionRecord | None:
    """A record of two texts, each given with the field it came from."""
    if not prompt[0].strip() or not completion[0].strip():
        return None
    return build(InstructionRecord, item, prompt=prompt, completion=completion)


def choice_record(item: Item, _labels: Labels) -> InstructionRecord | None:
    """A question with its choices, and the right one."""
    question, answer, answer_field = choice_question(item)
    return instruction(item, (question, "question"), (answer, answer_field))


def label_record(item: Item, labels: Labels) -> InstructionRecord | None:
    """One or two sentences, and the word for their class."""
    sentences = [item.text(field) for field in sentence_fields(item.fields)]
    prompt = "\n".join(sentence.strip() for sentence in sentences)
    if not prompt.strip():
        return None
    return instruction(item, (f"{prompt}\n\nLabel:", "label"), (label_text(item, labels), "label"))


def chat_record(item: Item, _labels: Labels) -> ChatRecord | None:
    """A chat."""
    field = chat_field(item.fields)
    messages = messages_of(item, field)
    if not all(message["content"].strip() for message in messages):
        return None
    return build(ChatRecord, item, messages=(messages, field))


def preference_record(item: Item, _labels: Labels) -> PreferenceRecord | None:
    """A prompt, or a chat, with a chosen and a rejected answer."""
    prompt, field = preference_prompt(item)
    chosen, rejected = answer_text(item, "chosen"), answer_text(item, "rejected")
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    if not all(text.strip() for text in (*texts, chosen, rejected)):
        return None
    return build(
        PreferenceRecord,
        item,
        prompt=(prompt, field),
        chosen=(chosen, "chosen"),
        rejected=(rejected, "rejected"),
    )


def preference_prompt(item: Item) -> tuple[str | list[dict[str, str]], str]:
    """What both answers answer, and the field it came from."""
    for field in ("prompt", "messages", "conversations"):
        if isinstance(item.fields.get(field), list):
            return messages_of(item, field), field
    if "instruction" in item.fields:
        asked = item.text("instruction")
        given = item.text("input") if item.fields.get("input") is not None else ""
        return f"{asked}\n\n{given}" if given.strip() else asked, "instruction"
    field = "question" if "question" in item.fields else "prompt"
    return item.text(field), field


def build(kind: type[Record], item: Item, **values: tuple[object, str]) -> Record:
    """A record of `kind`; values: field of the record → (its value, the field of the item it came from)."""
    try:
        return kind.model_validate({field: value for field, (value, _) in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        at = str(first["loc"][0]) if first["loc"] else next(iter(values))
        item.refuse(first["msg"].removeprefix("Value error, "), values[at][1])


def has(*names: str) -> Callable[[Mapping[str, object]], bool]:
    """Recognises a shape by fields that must all be there."""
    return lambda fields: all(name in fields for name in names)


# A record that has only the first of two fields is of this shape, and lacks the second.
PLAINEST = {"prompt": "completion", "instruction": "output", "question": "answer"}
# Every field that a shape is recognised by or reads; a reader of columns may leave out all others.
KNOWN_FIELDS = frozenset(
    {
        "text",
        *("prompt", "response", "completion"),
        *("instruction", "context", "input", "output"),
        *("question", "question_stem", "choices", *ANSWER_FIELDS),
        *("messages", "conversations", "system"),
        *("chosen", "rejected"),
        *(field for fields in SENTENCES for field in fields),
    }
)
HEADS = {Objective.CAUSAL_LM: "text", Objective.INSTRUCTIONS: "prompt", Objective.PREFERENCE: "chosen"}

SHAPES: dict[Objective, tuple[Shape, ...]] = {
    Objective.CAUSAL_LM: (Shape("text", has("text"), text_record),),
    Objective.INSTRUCTIONS: (
        Shape("messages, or conversations", lambda fields: chat_field(fields) in fields, chat_record),
        pair_shape("prompt", "response"),
        pair_shape("prompt", "completion"),
        pair_shape("instruction", "response", context="context"),
        pair_shape("instruction", "output", context="input"),
        Shape(
            "question + choices + answer",
            lambda fields: "choices" in fields or isinstance(fields.get("question"), dict),
            choice_record,
        ),
        pair_shape("question", "answer"),
        Shape(
            "sentence + label",
            lambda fields: "label" in fields and bool(sentence_fields(fields)),
            label_record,
        ),
    ),
    Objective.PREFERENCE: (
        Shape("prompt + chosen + rejected", has("chosen", "rejected"), preference_record),
    ),
}
