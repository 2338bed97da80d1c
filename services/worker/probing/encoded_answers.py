"""The answers of probes after their prompts, in token ids."""

from __future__ import annotations

from collections.abc import Sequence

from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.prompted_target import PromptedTarget
from shared.measurement import Probe


def encode_answers(
    language_model: LanguageModel, probes: Sequence[Probe]
) -> list[tuple[PromptedTarget, PromptedTarget | None]]:
    """The answer and, where there is one, the alternative of each probe, after its prompt."""
    tokenizer = language_model.tokenizer
    prompts = list(dict.fromkeys(probe.prompt.rstrip() for probe in probes))
    asked = [language_model.preamble(prompt) + prompt for prompt in prompts]
    prompt_ids = dict(zip(prompts, map(tuple, encode_prompts(tokenizer, asked)), strict=True))
    texts = {probe.answer.strip() for probe in probes}
    texts |= {probe.alternative.strip() for probe in probes if probe.alternative is not None}
    target_ids = {text: tuple(encode_target(tokenizer, text)) for text in texts}
    encoded = []
    for probe in probes:
        prompt = prompt_ids[probe.prompt.rstrip()]
        answer = PromptedTarget(prompt, target_ids[probe.answer.strip()])
        alternative = None
        if probe.alternative is not None:
            alternative = PromptedTarget(prompt, target_ids[probe.alternative.strip()])
        encoded.append((answer, alternative))
    return encoded
