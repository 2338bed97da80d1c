"""Text that a model makes up itself: seeded, batched, with its key-value cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.language_models.batching import TokenBatch, pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.progress import Advance, uncounted


@torch.no_grad()
def sample_continuations(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    generator: torch.Generator,
    advance: Advance = uncounted,
) -> Tensor:
    """Continue each prompt by drawing from the model's own distribution (temperature 1, nothing cut off).

    prompts: token ids, at least one each; generator: on the model's device (`seeded`).
    advance: called with the tokens drawn since the last call.
    Special tokens are never drawn. Returns (prompts, new_tokens) int64 on the CPU.
    """
    model = language_model.model
    barred = never_sampled(language_model)
    batch = pad(prompts, language_model.pad_token_id, "left").to(language_model.device)
    output = model(**batch.forward_arguments(model), use_cache=True)
    drawn: list[Tensor] = []
    while True:
        logits = output.logits[:, -1].float()
        logits[:, barred] = -torch.inf
        drawn.append(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))
        advance(len(prompts))
        if len(drawn) == new_tokens:
            return torch.cat(drawn, dim=1).cpu()
        mask = torch.cat([batch.attention_mask, torch.ones_like(drawn[-1])], dim=1)
        batch = TokenBatch(drawn[-1], mask)
        arguments = batch.forward_arguments(model)
        if "position_ids" in arguments:
            arguments["position_ids"] = batch.position_ids[:, -1:]
        output = model(**arguments, past_key_values=output.past_key_values, use_cache=True)


def seeded(language_model: LanguageModel, seed: int) -> torch.Generator:
    """A random generator on the model's device."""
    return torch.Generator(language_model.device).manual_seed(seed)


def never_sampled(language_model: LanguageModel) -> list[int]:
    """Ids that are special, or that the head scores but the tokenizer does not have."""
    head = language_model.model.get_parameter(f"{language_model.anatomy.head}.weight")
    vocabulary_size = head.shape[0]
    unknown = range(len(language_model.tokenizer), vocabulary_size)
    special = [index for index in language_model.tokenizer.all_special_ids if index < vocabulary_size]
    return sorted({*special, *unknown})


def start_of_text(language_model: LanguageModel) -> list[int]:
    """The token that a text of the model's own starts after: BOS, else end of text, else the first id."""
    tokenizer = language_model.tokenizer
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return [candidate]
    return [0]
