"""Greedy decoding of many prompts at once, on the keys and values of what is written already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from services.worker.language_models.batching import TokenBatch, pad, split_by_tokens
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, WorkDone, untold
from services.worker.probing.narrow_head import evaluating, only_positions

# Whether nothing more is wanted of a prompt, given its index and the tokens that were written after it.
Settled = Callable[[int, Sequence[int]], bool]


def never_settled(_index: int, _written: Sequence[int]) -> bool:
    return False


def write_greedily(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    room: Sequence[int],
    settled: Settled = never_settled,
    *,
    token_budget: int = 8192,
    progress: Progress = untold,
    memory: GpuMemory | None = None,
) -> list[list[int]]:
    """The tokens that greedy decoding writes after each prompt: those of `model.generate(do_sample=False)`.

    prompts: token ids, at least one each. room: the most tokens to write after each; no more are written than
    the model has positions for (the last token is never read). A prompt is done with once `settled` says so,
    or where its text ends: that token is the last one given. A model whose logits are not numbers writes
    nothing.
    """
    limit = language_model.context_length
    room = [
        wanted if limit is None else min(wanted, limit - len(prompt) + 1)
        for prompt, wanted in zip(prompts, room, strict=True)
    ]
    written: list[list[int]] = [[] for _ in prompts]
    asked = [index for index, places in enumerate(room) if places > 0]
    widths = [len(prompts[index]) + room[index] for index in asked]
    batches = [[asked[place] for place in batch] for batch in split_by_tokens(widths, token_budget)]
    work = WorkDone(progress, whole=len(prompts))

    def write(batch: Sequence[int]) -> None:
        found = write_batch(
            language_model,
            [prompts[index] for index in batch],
            [room[index] for index in batch],
            lambda place, tokens: settled(batch[place], tokens),
        )
        for index, tokens in zip(batch, found, strict=True):
            written[index] = tokens
        work.advance(len(batch))

    with torch.no_grad(), evaluating(language_model.model):
        memory = memory or GpuMemory()
        memory.run("prompts were continued", batches, write)
    return written


def write_batch(
    language_model: LanguageModel, prompts: Sequence[Sequence[int]], room: Sequence[int], settled: Settled
) -> list[list[int]]:
    """See `write_greedily`; rows that are done with leave the batch, with their keys and values."""
    ends = end_of_text(language_model)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    batch = pad(prompts, language_model.pad_token_id, "left").to(language_model.device)
    cache: Any = None
    while True:
        logits, cache = next_logits(language_model, batch, cache)
        best, tokens = logits.float().max(dim=-1)
        lasting = []
        for place, (row, token, lost) in enumerate(
            zip(list(rows), tokens.tolist(), best.isnan().tolist(), strict=True)
        ):
            if lost:
                continue
            written[row].append(token)
            if token not in ends and len(written[row]) < room[row] and not settled(row, written[row]):
                lasting.append(place)
        if not lasting:
            return written
        mask, read = batch.attention_mask, tokens[:, None]
        if len(lasting) < len(rows):
            kept = torch.tensor(lasting, device=mask.device)
            mask, read = mask[kept], read[kept]
            cache.batch_select_indices(kept)
            rows = [rows[place] for place in lasting]
        batch = TokenBatch(read, torch.cat([mask, torch.ones_like(read)], dim=1))


def next_logits(language_model: LanguageModel, batch: TokenBatch, cache: Any) -> tuple[Tensor, Any]:
    """What may follow each row, (rows, vocabulary), and the cache with the tokens that were read.

    batch: left-padded; where there is a cache, its tokens are only those that the cache does not hold, its
    mask that of all.
    """
    model = language_model.model
    arguments = batch.forward_arguments(model)
    read = batch.input_ids.shape[1]
    if "position_ids" in arguments:
        arguments["position_ids"] = batch.position_ids[:, -read:]
    rows = torch.arange(len(batch.input_ids), device=language_model.device)
    head = model.get_submodule(language_model.anatomy.head)
    with only_positions(head, rows, torch.full_like(rows, read - 1)):
        output = model(**arguments, past_key_values=cache, use_cache=True)
    return output.logits[0], output.past_key_values


def end_of_text(language_model: LanguageModel) -> set[int]:
    """Ids of the tokens that end a text: by the tokenizer, and by the model's own word for generating."""
    own = getattr(language_model.model.generation_config, "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return {token for token in (language_model.tokenizer.eos_token_id, *named) if isinstance(token, int)}
