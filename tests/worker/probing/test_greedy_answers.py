"""What a model says by itself is what transformers' own greedy decoding says."""

from __future__ import annotations

import pytest
import torch

from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.memory import GpuMemory
from services.worker.probing.greedy_answers import greedy_answers
from tests.worker.probing.test_scoring import language_model, some_probes
from tests.worker.scarce_memory import room_for


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "opt", "gemma2"])
def test_answers_are_those_of_greedy_decoding(family: str) -> None:
    model, probes = language_model(family, adds_bos=family == "llama"), some_probes()
    answers = greedy_answers(model, probes, token_budget=60)
    for answer, asked in zip(answers, probes, strict=True):
        prompt = torch.tensor(encode_prompts(model.tokenizer, [asked.prompt]))
        length = len(encode_target(model.tokenizer, asked.answer))
        written = model.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, prompt.shape[1] :]
        assert answer == model.tokenizer.decode(written).split("<s>")[0].strip()


def test_nothing_is_asked_of_nobody() -> None:
    assert greedy_answers(language_model("gpt2"), []) == []


def test_prompts_that_do_not_fit_into_memory_at_once_are_answered_alike_in_parts() -> None:
    model, probes, memory = language_model("gpt2"), some_probes(), GpuMemory()
    expected = greedy_answers(model, probes)
    with room_for(2, model):
        assert greedy_answers(model, probes, memory=memory) == expected
    assert memory.warnings
