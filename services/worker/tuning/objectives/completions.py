"""Instructions and chats: the loss is taken over the answers, or over everything."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from services.worker.tuning.objectives.encoding import Conversation, conversations, cut_beginning
from services.worker.tuning.objectives.examples import UNSCORED, Example, TokenDataset
from shared.recipes import ChatRecord, InstructionRecord, LossOn


def completions(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[InstructionRecord | ChatRecord],
    sequence_length: int,
    loss_on: LossOn = LossOn.COMPLETIONS,
) -> TokenDataset:
    """Instructions and chats; by default the loss is taken over the answers and their ends alone.

    A prompt that is too long loses its beginning (a leading BOS stays), a chat that is too long its last
    turns. A record whose first answer does not fit beside one token of its prompt is left out and counted.
    """
    examples, left_out, shortened = [], 0, 0
    for record in records:
        laid_out = conversations(tokenizer, record)
        fitting = [
            example
            for conversation in laid_out
            if (example := fitted(conversation, sequence_length, tokenizer.bos_token_id, loss_on))
        ]
        whole = sum(len(turn.question) + len(turn.answer) for turns in laid_out for turn in turns)
        left_out += not fitting
        shortened += bool(fitting) and sum(len(example.input_ids) for example in fitting) < whole
        examples += fitting
    return TokenDataset(tuple(examples), left_out, shortened)


def fitted(
    conversation: Conversation, sequence_length: int, bos_token_id: int | None, loss_on: LossOn
) -> Example | None:
    """As many exchanges as fit, from the first on; None where not even the first answer does."""
    first = conversation[0]
    room = sequence_length - len(first.answer)
    if room < 1 or not first.question or not first.answer:
        return None
    question = cut_beginning(first.question, room, bos_token_id)
    tokens = [*question, *first.answer]
    labels = [*unlearned(question, loss_on), *first.answer]
    for turn in conversation[1:]:
        if len(tokens) + len(turn.question) + len(turn.answer) > sequence_length:
            break
        tokens += [*turn.question, *turn.answer]
        labels += [*unlearned(turn.question, loss_on), *turn.answer]
    return Example(tuple(tokens), (UNSCORED, *labels[1:]))


def unlearned(question: Sequence[int], loss_on: LossOn) -> list[int]:
    """Labels of what is asked."""
    return list(question) if loss_on is LossOn.ALL else [UNSCORED] * len(question)
