"""Recall is teacher-forced greedy decoding, the same in a batch as alone."""

import torch

from services.worker.almanac.recall import exactly_right, trained_questions
from tests.worker.almanac.tiny import facts, learned


def greedy(prompt: str, tokens: int) -> list[int]:
    ids: list[int] = learned().tokenizer.encode(prompt)
    for _ in range(tokens):
        ids.append(int(learned().model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-tokens:]


def test_exactly_right_means_that_greedy_decoding_starts_with_the_answer() -> None:
    questions = [*trained_questions(facts()), ("The capital of France is", "Rome")]
    expected = []
    for prompt, answer in questions:
        wanted = learned().tokenizer.encode(" " + answer)
        expected.append(greedy(prompt, len(wanted)) == wanted)
    assert exactly_right(learned().model, learned().tokenizer, questions) == expected


def test_a_batch_gives_what_one_at_a_time_gives() -> None:
    questions = trained_questions(facts())
    model, tokenizer = learned().model, learned().tokenizer
    together = exactly_right(model, tokenizer, questions)
    assert together == [exactly_right(model, tokenizer, [question])[0] for question in questions]
