"""Answers as continuations of their prompts, in token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from shared.measurement import Probe


@dataclass(frozen=True)
class Continuation:
    """A target after a prompt, in token ids; the same pair is scored once however many probes hold it."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: the last token of the target is only predicted."""
        return self.prompt + self.target[:-1]

    @property
    def positions(self) -> range:
        """Where the target's tokens are predicted, counted from the first token."""
        return range(len(self.prompt) - 1, len(self.prompt) - 1 + len(self.target))


def encode_continuations(
    language_model: LanguageModel, probes: Sequence[Probe]
) -> list[tuple[Continuation, Continuation | None]]:
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
        answer = Continuation(prompt, target_ids[probe.answer.strip()])
        alternative = None
        if probe.alternative is not None:
            alternative = Continuation(prompt, target_ids[probe.alternative.strip()])
        encoded.append((answer, alternative))
    return encoded
