"""Text that a model makes up itself: seeded, batched, with its key-value cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.language_models.batching import TokenBatch, pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Advance, WorkDone


def sample_continuations(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    generator: torch.Generator,
    work: WorkDone,
    memory: GpuMemory,
) -> Tensor:
    """Continue each prompt by drawing from the model's own distribution (temperature 1, nothing cut off).

    prompts: token ids, at least one each; generator: on the CPU, whatever the model is on. work: advanced
    by the tokens drawn. Special tokens are never drawn. Returns (prompts, new_tokens) int64 on the CPU.

    Chance is drawn for all prompts beforehand, so that what a prompt is continued with depends neither on
    the others nor on how many of them fit into memory at once.
    """
    chances = torch.rand((len(prompts), new_tokens), generator=generator)
    drawn = torch.empty((len(prompts), new_tokens), dtype=torch.int64)

    def sample(rows: Sequence[int]) -> None:
        chosen = [prompts[row] for row in rows]
        with work.taken_back_on_failure():
            drawn[list(rows)] = continue_by_chance(language_model, chosen, chances[list(rows)], work.advance)

    memory.run("texts were sampled", [range(len(prompts))], sample)
    return drawn


@torch.no_grad()
def continue_by_chance(
    language_model: LanguageModel, prompts: Sequence[Sequence[int]], chances: Tensor, advance: Advance
) -> Tensor:
    """Continue all prompts at once by the tokens that chance points at.

    chances: (prompts, new tokens) float32, each from 0 up to 1. Returns int64 of that shape on the CPU.
    """
    model = language_model.model
    barred = never_sampled(language_model)
    chances = chances.to(language_model.device)
    batch = pad(prompts, language_model.pad_token_id, "left").to(language_model.device)
    output = model(**batch.forward_arguments(model), use_cache=True)
    drawn: list[Tensor] = []
    while True:
        logits = output.logits[:, -1].float()
        logits[:, barred] = -torch.inf
        drawn.append(pick(logits.softmax(dim=-1), chances[:, len(drawn)]))
        advance(len(prompts))
        if len(drawn) == chances.shape[1]:
            return torch.cat(drawn, dim=1).cpu()
        mask = torch.cat([batch.attention_mask, torch.ones_like(drawn[-1])], dim=1)
        batch = TokenBatch(drawn[-1], mask)
        arguments = batch.forward_arguments(model)
        if "position_ids" in arguments:
            arguments["position_ids"] = batch.position_ids[:, -1:]
        output = model(**arguments, past_key_values=output.past_key_values, use_cache=True)


def pick(probabilities: Tensor, chances: Tensor) -> Tensor:
    """Where each chance falls when its row's probabilities are laid end to end.

    probabilities: (rows, choices) float32; chances: (rows,), from 0 up to 1. Returns (rows, 1) int64.
    """
    ends = probabilities.double().cumsum(dim=-1)  # float32 would lose the rare ones of a large vocabulary
    places = torch.searchsorted(ends, chances[:, None] * ends[:, -1:], right=True)
    # Probabilities that are not numbers lead past the end, where a GPU would not survive the look-up.
    return places.clamp(max=probabilities.shape[1] - 1)


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
