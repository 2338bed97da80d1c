"""A target after its prompt, in token ids: what editors train towards and probes score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptedTarget:
    """A prompt and what follows it; equal ones need be run only once."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: the last token of the target is only predicted."""
        return self.prompt + self.target[:-1]

    @property
    def positions(self) -> range:
        """Where the target's tokens are predicted, counted from the first token."""
        return range(len(self.prompt) - 1, len(self.inputs))
