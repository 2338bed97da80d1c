"""Prompts and answers as token ids, in the tokenizer's chat template or as plain turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from services.worker.language_models.batching import encode_prompts, encode_target
from shared.recipes import ChatRecord, InstructionRecord, Message, Role
from shared.training_data import UnusableTrainingData


@dataclass(frozen=True)
class Exchange:
    """Token ids of what is asked, and of the answer with its end."""

    question: list[int]
    answer: list[int]


Conversation = list[Exchange]


def conversations(
    tokenizer: PreTrainedTokenizerBase, record: InstructionRecord | ChatRecord
) -> list[Conversation]:
    """The record as token ids: one conversation, or several where the chat template asks for it.

    Raises UnusableTrainingData when the tokenizer's chat template refuses the record.
    """
    if tokenizer.chat_template is not None:
        return chat_turns(tokenizer, messages_of(record))
    if isinstance(record, InstructionRecord):
        return [[plain_exchange(tokenizer, record.prompt, record.completion)]]
    return [plain_turns(tokenizer, record.messages)]


def messages_of(record: InstructionRecord | ChatRecord) -> tuple[Message, ...]:
    """The record as a chat."""
    if isinstance(record, ChatRecord):
        return record.messages
    return (
        Message(role=Role.USER, content=record.prompt),
        Message(role=Role.ASSISTANT, content=record.completion),
    )


def plain_exchange(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Exchange:
    """Token ids of prompt and of completion + EOS, for a tokenizer without a chat template.

    Where the prompt ends or the completion begins with a line break, that white space stays and belongs
    to the prompt; everywhere else one space parts the two and belongs to the completion, as in running
    text, where a tokenizer joins the space to the word after it.
    """
    asked, answered = prompt.rstrip(), completion.lstrip()
    between = prompt[len(asked) :] + completion[: len(completion) - len(answered)]
    end = end_of_sequence(tokenizer)
    if "\n" in between:
        question = encode_prompts(tokenizer, [asked + between])[0]
        return Exchange(question, encode_after(tokenizer, "\n", answered) + end)
    return Exchange(encode_prompts(tokenizer, [asked])[0], encode_target(tokenizer, answered) + end)


def plain_turns(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Conversation:
    """A chat for a tokenizer without a chat template, laid out as prompts and completions are.

    What stands between two answers (system and user turns) is joined by blank lines and begins on a new
    line. What follows the last answer is left out.
    """
    exchanges: Conversation = []
    for asked, answer in exchanges_of(messages):
        text = "\n\n".join(message.content.strip() for message in asked)
        exchange = plain_exchange(tokenizer, text, answer.content.strip())
        if exchanges:
            exchange = Exchange(encode_after(tokenizer, "a", "\n" + text), exchange.answer)
        exchanges.append(exchange)
    return exchanges


def exchanges_of(messages: Sequence[Message]) -> list[tuple[tuple[Message, ...], Message]]:
    """Every answer with the turns between it and the answer before it."""
    found, asked = [], list[Message]()
    for message in messages:
        if message.role is Role.ASSISTANT:
            found.append((tuple(asked), message))
            asked = []
        else:
            asked.append(message)
    return found


def chat_turns(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Conversation]:
    """The chat as the tokenizer's chat template lays it out, rendered up to every answer in turn.

    An answer is all that the template puts after its generation prompt, its end of turn included. Some
    templates write earlier turns otherwise once later ones follow (they drop what the model thought, for
    one); then every answer is a conversation of its own, after the turns before it as the template writes
    them at that moment, which is what the model reads when it is asked.
    """
    answers = [index for index, message in enumerate(messages) if message.role is Role.ASSISTANT]
    whole: Conversation = []
    so_far: list[int] = []
    for index in answers:
        asked = rendered_ids(tokenizer, messages[:index], add_generation_prompt=True)
        answered = rendered_ids(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if asked[: len(so_far)] != so_far or answered[: len(asked)] != asked:
            return [[chat_exchange(tokenizer, messages[: index + 1])] for index in answers]
        whole.append(Exchange(asked[len(so_far) :], answered[len(asked) :]))
        so_far = answered
    return [whole]


def chat_exchange(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Exchange:
    """The last message, an answer, after all others.

    Where a template rewrites the prompt once an answer follows, the answer and EOS are encoded alone.
    """
    asked = rendered_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    answered = rendered_ids(tokenizer, messages, add_generation_prompt=False)
    if answered[: len(asked)] == asked:
        return Exchange(asked, answered[len(asked) :])
    alone = encode_after(tokenizer, "\n", messages[-1].content) + end_of_sequence(tokenizer)
    return Exchange(asked, alone)


def rendered_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    """Token ids of messages in the chat template, which writes every special token itself."""
    try:
        text = tokenizer.apply_chat_template(
            [message.model_dump(mode="json") for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        raise UnusableTrainingData(
            f"the model's chat template refuses a record: {error}", "records"
        ) from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def encode_after(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """Token ids of `text` as it stands after `before`, without special tokens.

    Encoded alone, SentencePiece would put a space of its own before it.
    """
    anchor: list[int] = tokenizer.encode(before, add_special_tokens=False)
    anchored: list[int] = tokenizer.encode(before + text, add_special_tokens=False)
    if anchored[: len(anchor)] == anchor:
        return anchored[len(anchor) :]
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return alone


def cut_beginning(prompt: Sequence[int], room: int, bos_token_id: int | None) -> list[int]:
    """The last `room` tokens of a prompt; a BOS at its head is kept while there is room for another."""
    if len(prompt) <= room:
        return list(prompt)
    if room > 1 and prompt[0] == bos_token_id:
        return [prompt[0], *prompt[len(prompt) - room + 1 :]]
    return list(prompt[len(prompt) - room :])


def end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end-of-sequence token, or nothing where the tokenizer has none."""
    return [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
