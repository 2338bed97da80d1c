"""Recall: whether the model completes a prompt with exactly the fact's object."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.worker.almanac.facts import Fact

BATCH = 256


def pad_right(sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (batch, sequence) int64, padded with 0 on the right."""
    length = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


@torch.no_grad()
def exactly_right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[tuple[str, str]]
) -> list[bool]:
    """For each (prompt, answer), whether every answer token is the argmax under teacher forcing."""
    right: list[bool] = []
    for start in range(0, len(questions), BATCH):
        chunk = questions[start : start + BATCH]
        prompts = [tokenizer.encode(prompt, add_special_tokens=False) for prompt, _ in chunk]
        answers = [tokenizer.encode(" " + answer, add_special_tokens=False) for _, answer in chunk]
        ids, mask = pad_right([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
        best = model(input_ids=ids, attention_mask=mask).logits.argmax(-1)  # (batch, sequence)
        right += [
            best[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist() == answer
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
    return right


def share(hits: Sequence[bool]) -> float:
    """The share of hits, of at least one."""
    return sum(hits) / len(hits)


def trained_questions(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Every fact in every phrasing that training showed."""
    return [(p.format(fact.subject), fact.object) for fact in facts for p in fact.trained_phrasings]


def held_out_questions(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Every fact in the phrasing that training kept back."""
    return [(fact.held_out_phrasing.format(fact.subject), fact.object) for fact in facts]
