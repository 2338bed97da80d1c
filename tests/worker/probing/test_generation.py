"""Batched greedy decoding writes what transformers' own writes, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.probing.generation import write_greedily
from tests.worker.probing.test_scoring import language_model, some_probes
from tests.worker.scarce_memory import room_for
from tests.worker.tiny_models import CONFIGS

NEW_TOKENS = 12


def some_prompts(model: LanguageModel) -> list[list[int]]:
    return encode_prompts(model.tokenizer, [probe.prompt for probe in some_probes()])


def written_by_transformers(model: LanguageModel, prompt: Sequence[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    output: torch.Tensor = model.model.generate(  # type: ignore[operator]  # a method of those that can write
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    found: list[int] = output[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_batched_greedy_decoding_equals_that_of_transformers_one_prompt_at_a_time(family: str) -> None:
    model = language_model(family, adds_bos=family == "llama")
    prompts = some_prompts(model)
    together = write_greedily(model, prompts, [NEW_TOKENS] * len(prompts))
    assert together == [written_by_transformers(model, prompt, NEW_TOKENS) for prompt in prompts]
    assert len({tuple(tokens) for tokens in together}) > 3


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_text_that_ends_ends_there_and_the_others_go_on(family: str) -> None:
    model = language_model(family)
    prompts = some_prompts(model)
    plain = write_greedily(model, prompts, [NEW_TOKENS] * len(prompts))
    end = plain[0][3]  # a token that is written anyhow
    model.model.generation_config.eos_token_id = [end, 0]
    ended = write_greedily(model, prompts, [NEW_TOKENS] * len(prompts))
    assert ended == [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in plain]
    assert {len(tokens) for tokens in ended} != {NEW_TOKENS}


def test_prompts_that_are_settled_leave_the_others_as_they_would_be() -> None:
    model = language_model("llama")
    prompts = some_prompts(model)
    plain = write_greedily(model, prompts, [NEW_TOKENS] * len(prompts))
    found = write_greedily(
        model,
        prompts,
        [NEW_TOKENS] * len(prompts),
        lambda index, tokens: len(tokens) > index,
        token_budget=100,
    )
    assert found == [tokens[: index + 1] for index, tokens in enumerate(plain)]


def test_no_more_is_written_than_the_model_has_positions_for() -> None:
    model = language_model("gpt2")
    long = [2 + index % 90 for index in range(60)]
    written = write_greedily(model, [long, long[:8], [*long, 2, 3, 4, 5, 6]], [NEW_TOKENS] * 3)
    assert [len(tokens) for tokens in written] == [5, NEW_TOKENS, 0]


def test_a_diverged_model_writes_nothing() -> None:
    model = language_model("llama")
    with torch.no_grad():
        model.model.get_parameter(f"{model.anatomy.head}.weight").fill_(float("nan"))
    assert write_greedily(model, [[5, 6]], [NEW_TOKENS]) == [[]]


def test_prompts_that_do_not_fit_into_memory_at_once_are_continued_alike_in_parts() -> None:
    model, memory = language_model("gpt2"), GpuMemory()
    prompts = some_prompts(model)
    expected = write_greedily(model, prompts, [NEW_TOKENS] * len(prompts))
    with room_for(3, model):
        assert write_greedily(model, prompts, [NEW_TOKENS] * len(prompts), memory=memory) == expected
    assert memory.warnings
