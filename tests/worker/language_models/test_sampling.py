import pytest
import torch

from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import WorkDone, untold
from services.worker.language_models.sampling import pick, sample_continuations
from tests.worker.scarce_memory import room_for
from tests.worker.tiny_models import tiny_model, tiny_tokenizer

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12]]


def language_model(family: str) -> LanguageModel:
    return prepare_language_model(tiny_model(family), tiny_tokenizer(), f"tiny:{family}", "r1")


def sample(
    language_model: LanguageModel,
    prompts: list[list[int]],
    new_tokens: int,
    work: WorkDone | None = None,
    memory: GpuMemory | None = None,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    work, memory = work or WorkDone(untold, whole=1), memory or GpuMemory()
    return sample_continuations(language_model, prompts, new_tokens, generator, work, memory)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "opt", "gptj"])
@torch.no_grad()
def test_a_certain_model_continues_each_prompt_as_if_it_were_alone(family: str) -> None:
    certain = language_model(family)
    head = certain.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight * 1e5, requires_grad=False)
    drawn = sample(certain, PROMPTS, 4)
    known = len(certain.tokenizer)
    for prompt, row in zip(PROMPTS, drawn.tolist(), strict=True):
        ids = list(prompt)
        for _ in range(4):
            logits = certain.model(input_ids=torch.tensor([ids])).logits[0, -1, :known]
            logits[certain.tokenizer.all_special_ids] = -torch.inf
            ids.append(int(logits.argmax()))
        assert row == ids[len(prompt) :]


def test_special_tokens_and_ids_the_tokenizer_lacks_are_never_drawn() -> None:
    gpt2 = language_model("gpt2")
    drawn = sample(gpt2, [[5]] * 64, 20)
    assert not set(drawn.unique().tolist()) & {0, *range(len(gpt2.tokenizer), 160)}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [1, 3])
def test_prompts_that_do_not_fit_into_memory_at_once_are_continued_alike_in_parts(
    family: str, rows: int
) -> None:
    model, memory, work = language_model(family), GpuMemory(), WorkDone(untold, whole=1)
    prompts = PROMPTS * 4
    together = sample(model, prompts, 10)
    with room_for(rows, model):
        in_parts = sample(model, prompts, 10, work, memory)
    assert torch.equal(in_parts, together)
    assert memory.warnings == [f"ran out of GPU memory; texts were sampled {rows} at a time instead of 12"]
    assert work.done == in_parts.numel()


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    generator = torch.Generator().manual_seed(0)
    draws = 20_000
    picked = pick(probabilities.expand(draws, -1), torch.rand(draws, generator=generator))[:, 0]
    shares = picked.bincount(minlength=6) / draws
    # five standard deviations of a share of one half
    assert torch.allclose(shares, probabilities, atol=5 * 0.5 / draws**0.5)
    assert not shares[probabilities == 0].any()


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
def test_chance_at_either_end_picks_what_is_possible(chance: float) -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.75, 0.0]])
    assert pick(probabilities, torch.tensor([chance])).item() == (1 if chance == 0 else 2)


def test_probabilities_that_are_not_numbers_pick_a_token_that_there_is() -> None:
    assert 0 <= pick(torch.full((1, 4), torch.nan), torch.tensor([0.5])).item() < 4
