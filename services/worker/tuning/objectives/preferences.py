"""Preferences: two answers to one prompt, as pairs of token sequences."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from services.worker.tuning.objectives.encoding import (
    Exchange,
    chat_exchange,
    cut_beginning,
    plain_exchange,
    plain_turns,
)
from services.worker.tuning.objectives.examples import (
    UNSCORED,
    Example,
    PreferenceDataset,
    PreferenceExample,
)
from shared.recipes import Message, PreferenceRecord, Role
from shared.training_data import UnusableTrainingData


def preference_pairs(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[PreferenceRecord], sequence_length: int
) -> PreferenceDataset:
    """Both answers of every record after the same prompt, each with its end.

    A prompt that is too long for the longer answer loses its beginning in both (a leading BOS stays). A
    record of which one answer does not fit beside one token of the prompt is left out and counted.
    Raises UnusableTrainingData when no record is left, or the chat template refuses one.
    """
    pairs, shortened = [], 0
    for record in records:
        chosen, rejected = (
            answered(tokenizer, record, answer) for answer in (record.chosen, record.rejected)
        )
        room = sequence_length - max(len(chosen.answer), len(rejected.answer))
        if room < 1 or not chosen.question or not chosen.answer or not rejected.answer:
            continue
        prompt = cut_beginning(chosen.question, room, tokenizer.bos_token_id)
        pairs.append(PreferenceExample(example(prompt, chosen.answer), example(prompt, rejected.answer)))
        shortened += len(prompt) < len(chosen.question)
    if not pairs:
        raise UnusableTrainingData(
            f"none of the {len(records)} records fits within {sequence_length} tokens", "records"
        )
    return PreferenceDataset(tuple(pairs), left_out=len(records) - len(pairs), shortened=shortened)


def answered(tokenizer: PreTrainedTokenizerBase, record: PreferenceRecord, answer: str) -> Exchange:
    """The prompt with one of its answers; the prompt is the same whichever answer follows."""
    messages = (*record.messages, Message(role=Role.ASSISTANT, content=answer))
    if tokenizer.chat_template is not None:
        return chat_exchange(tokenizer, messages)
    if isinstance(record.prompt, str):
        return plain_exchange(tokenizer, record.prompt, answer.lstrip())
    turns = plain_turns(tokenizer, messages)
    before = [token for turn in turns[:-1] for token in (*turn.question, *turn.answer)]
    return Exchange(before + turns[-1].question, turns[-1].answer)


def example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    """A prompt with one answer, the answer scored."""
    return Example((*prompt, *answer), (*[UNSCORED] * len(prompt), *answer))
