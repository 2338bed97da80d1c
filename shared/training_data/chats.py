"""Chats as OpenAI's `messages` (role, content) and ShareGPT's `conversations` (from, value)."""

from __future__ import annotations

from collections.abc import Mapping

from shared.recipes import Role
from shared.training_data.faults import Item, quoted

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "bot": Role.ASSISTANT,
}


def chat_field(fields: Mapping[str, object]) -> str:
    """The field that holds a record's turns."""
    return "conversations" if "conversations" in fields else "messages"


def messages_of(item: Item, field: str) -> list[dict[str, str]]:
    """The turns of a chat as role and content; a `system` field beside them becomes the first.

    Refuses turns by anybody but system, user and assistant, and whatever is not text.
    """
    turns = item.fields[field]
    if not isinstance(turns, list):
        item.refuse(f"must be a list of turns, not {type(turns).__name__}", field)
    messages = [message_of(item, turn, f"{field}.{index}") for index, turn in enumerate(turns)]
    system = item.fields.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, {"role": Role.SYSTEM, "content": system})
    return messages


def message_of(item: Item, turn: object, field: str) -> dict[str, str]:
    """One turn."""
    if not isinstance(turn, dict):
        item.refuse(f"must be an object, not {type(turn).__name__}", field)
    speaker = turn.get("role", turn.get("from"))
    if not isinstance(speaker, str) or speaker not in ROLES:
        known = ", ".join(ROLES)
        item.refuse(f"the turn's speaker must be one of {known}, not '{quoted(speaker)}'", field)
    content = joined(turn.get("content", turn.get("value")))
    if content is None:
        item.refuse("the turn's content must be text", field)
    return {"role": ROLES[speaker], "content": content}


def joined(content: object) -> str | None:
    """A turn's text, which may be given in parts of type `text`; None when it is something else."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def answer_text(item: Item, field: str) -> str:
    """A preferred or rejected answer: text, one turn, or a list of one turn, which is the assistant's."""
    value = item.fields.get(field)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        message = message_of(item, value, field)
        if message["role"] != Role.ASSISTANT:
            item.refuse("must be the assistant's turn", field)
        return message["content"]
    if isinstance(value, list):
        item.refuse("must be one turn; put the turns before it into 'prompt'", field)
    return item.text(field)
