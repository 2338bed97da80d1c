"""The shapes of the records that a recipe trains on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.strict import Strict

MAX_MESSAGES = 1_000

Text = Annotated[str, Field(min_length=1, max_length=100_000)]
LongText = Annotated[str, Field(min_length=1, max_length=5_000_000)]  # whole documents, which are cut


class Role(StrEnum):
    """Who speaks in a turn of a chat."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(Strict):
    """One turn of a chat."""

    role: Role
    content: Text


Messages = Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]


class TextRecord(Strict):
    """A piece of plain text, for `causal_lm`."""

    text: LongText


class InstructionRecord(Strict):
    """A prompt and the completion to learn, for `instructions`."""

    prompt: Text
    completion: Text


class ChatRecord(Strict):
    """A chat whose assistant's turns are to be learned, for `instructions`.

    A system message stands first, if there is one; after it a user's message stands before the first
    answer.
    """

    messages: Messages

    @model_validator(mode="after")
    def _is_a_chat(self) -> Self:
        check_turns(self.messages, "messages")
        if all(message.role is not Role.ASSISTANT for message in self.messages):
            raise ValueError("messages: no turn is the assistant's, so there is nothing to learn")
        return self


class PreferenceRecord(Strict):
    """A prompt, or the chat so far, with the answer to be preferred and the one to be rejected."""

    prompt: Text | Messages
    chosen: Text
    rejected: Text

    @model_validator(mode="after")
    def _asks_before_it_answers(self) -> Self:
        if not isinstance(self.prompt, str):
            check_turns(self.prompt, "prompt")
            if self.prompt[-1].role is Role.ASSISTANT:
                raise ValueError(f"prompt.{len(self.prompt) - 1}: the assistant has the last turn already")
        return self

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as a chat."""
        if isinstance(self.prompt, str):
            return (Message(role=Role.USER, content=self.prompt),)
        return self.prompt


TrainingRecord = TextRecord | InstructionRecord | ChatRecord | PreferenceRecord


def check_turns(messages: tuple[Message, ...], field: str) -> None:
    """Raise ValueError unless a system message stands first, if anywhere, and the user speaks before the
    assistant; field: where the messages stand."""
    for index, message in enumerate(messages):
        if message.role is Role.SYSTEM and index > 0:
            raise ValueError(f"{field}.{index}: a system message must be the first")
    spoken = [message.role for message in messages if message.role is not Role.SYSTEM]
    if not spoken or spoken[0] is not Role.USER:
        raise ValueError(f"{field}: a user's message must come before the first answer")
