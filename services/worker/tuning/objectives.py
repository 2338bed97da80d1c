"""Objectives: from records to token sequences with labels."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from services.worker.language_models.batching import encode_prompts, encode_target, pad
from shared.recipes import InstructionRecord, Objective, TextRecord
from shared.training_data import UnusableTrainingData

UNSCORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """A token sequence and what it is to learn: labels are UNSCORED where no loss is taken.

    `labels[i]` is the token at i itself (the model shifts). The first is always UNSCORED: nothing stands
    before it to predict it from, and for some models Trainer counts all labels as predicted.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def scored_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return sum(label != UNSCORED for label in self.labels)


@dataclass(frozen=True)
class TokenDataset(Dataset[Example]):
    """Examples in order, and how many records did not fit the sequence length and were left out."""

    examples: tuple[Example, ...]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all tokens and labels in their order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(array("q", (len(example.input_ids), *example.input_ids, *example.labels)))
        return digest.hexdigest()


def token_dataset(
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[TextRecord | InstructionRecord],
    sequence_length: int,
) -> TokenDataset:
    """Turn records into examples of at most `sequence_length` tokens, in the way of the objective.

    Raises UnusableTrainingData when no record leaves anything to score.
    """
    match objective:
        case Objective.CAUSAL_LM:
            texts = [record.text for record in records if isinstance(record, TextRecord)]
            dataset = packed_texts(tokenizer, texts, sequence_length)
        case Objective.INSTRUCTIONS:
            pairs = [record for record in records if isinstance(record, InstructionRecord)]
            dataset = completions(tokenizer, pairs, sequence_length)
    if not any(example.scored_tokens for example in dataset.examples):
        raise UnusableTrainingData(
            f"none of the {len(records)} records leaves a token to learn within {sequence_length} tokens",
            "records",
        )
    return dataset


def packed_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sequence_length: int
) -> TokenDataset:
    """Plain text: all texts joined by the end-of-sequence token and cut into blocks; every token counts.

    Each text is encoded as the tokenizer does by default (with its BOS, where it adds one). The last
    block is as short as what remains, but never a single token, from which nothing could be learned.
    """
    end = end_of_sequence(tokenizer)
    stream: list[int] = []
    for ids in encode_prompts(tokenizer, texts):
        stream += ids if ids[-1:] == end else ids + end
    blocks = [stream[start : start + sequence_length] for start in range(0, len(stream), sequence_length)]
    if len(blocks) > 1 and len(blocks[-1]) == 1:
        blocks[-2:] = [blocks[-2][:-1], blocks[-2][-1:] + blocks[-1]]
    return TokenDataset(tuple(Example(tuple(block), (UNSCORED, *block[1:])) for block in blocks))


def completions(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[InstructionRecord], sequence_length: int
) -> TokenDataset:
    """Instructions: prompt and completion, the loss taken over the completion and its end alone.

    A prompt that is too long loses its beginning (a leading BOS stays). A record whose completion does
    not fit beside one token of its prompt is left out and counted.
    """
    encode = chat_turns if tokenizer.chat_template is not None else plain_turns
    examples = []
    for record in records:
        prompt, completion = encode(tokenizer, record)
        room = sequence_length - len(completion)
        if room >= 1 and prompt and completion:
            kept = cut_beginning(prompt, room, tokenizer.bos_token_id)
            examples.append(Example((*kept, *completion), (*[UNSCORED] * len(kept), *completion)))
    return TokenDataset(tuple(examples), left_out=len(records) - len(examples))


def plain_turns(tokenizer: PreTrainedTokenizerBase, record: InstructionRecord) -> tuple[list[int], list[int]]:
    """Token ids of prompt and of completion + EOS, for a tokenizer without a chat template.

    Where the prompt ends or the completion begins with a line break, that white space stays and belongs
    to the prompt; everywhere else one space parts the two and belongs to the completion, as in running
    text, where a tokenizer joins the space to the word after it.
    """
    prompt, completion = record.prompt.rstrip(), record.completion.lstrip()
    between = record.prompt[len(prompt) :] + record.completion[: len(record.completion) - len(completion)]
    end = end_of_sequence(tokenizer)
    if "\n" in between:
        return (
            prompt_ids(tokenizer, prompt + between),
            encode_after(tokenizer, "\n", completion) + end,
        )
    return prompt_ids(tokenizer, prompt), encode_target(tokenizer, completion) + end


def chat_turns(tokenizer: PreTrainedTokenizerBase, record: InstructionRecord) -> tuple[list[int], list[int]]:
    """Token ids of prompt and of completion, as the tokenizer's chat template lays out one exchange.

    The completion is all that the template puts after its generation prompt, its end of turn included.
    Where a template rewrites the prompt once an answer follows, the completion and EOS are encoded alone.
    """
    question = {"role": "user", "content": record.prompt}
    answer = {"role": "assistant", "content": record.completion}
    prompt = rendered_ids(tokenizer, [question], add_generation_prompt=True)
    exchange = rendered_ids(tokenizer, [question, answer], add_generation_prompt=False)
    if exchange[: len(prompt)] == prompt:
        return prompt, exchange[len(prompt) :]
    return prompt, encode_after(tokenizer, "\n", record.completion) + end_of_sequence(tokenizer)


def rendered_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    """Token ids of messages in the chat template, which writes every special token itself."""
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt to be continued: without the EOS that some tokenizers put after any text."""
    ids = encode_prompts(tokenizer, [prompt])[0]
    return ids[:-1] if ids[-1:] == end_of_sequence(tokenizer) and len(ids) > 1 else ids


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


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right: input_ids, attention_mask and labels, each (batch, sequence) int64."""
    tokens = pad([example.input_ids for example in examples], pad_token_id, "right")
    labels = pad([example.labels for example in examples], UNSCORED, "right")
    return {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "labels": labels.input_ids,
    }
