import pytest
import torch

from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.sampling import sample_continuations, seeded
from tests.worker.tiny_models import tiny_model, tiny_tokenizer

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12]]


def language_model(family: str) -> LanguageModel:
    return prepare_language_model(tiny_model(family), tiny_tokenizer(), f"tiny:{family}", "r1")


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "opt", "gptj"])
@torch.no_grad()
def test_a_certain_model_continues_each_prompt_as_if_it_were_alone(family: str) -> None:
    certain = language_model(family)
    head = certain.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight * 1e5, requires_grad=False)
    drawn = sample_continuations(certain, PROMPTS, 4, seeded(certain, 0))
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
    drawn = sample_continuations(gpt2, [[5]] * 64, 20, seeded(gpt2, 0))
    assert not set(drawn.unique().tolist()) & {0, *range(len(gpt2.tokenizer), 160)}
