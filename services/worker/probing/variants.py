"""A fact's own prompt, made harder: after sentences about something else, and denied.

Edits and control facts are treated alike, so that what a variant costs either can be compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.measurement import Probe, ProbeKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Plain sentences that name nobody and nothing: one, and a few. Written for this purpose.
DISTRACTORS = (
    "It rained a little in the morning, and by noon the streets were dry again.",
    "The meeting began late because nobody could find the key to the room. Somebody made tea, others opened "
    "the windows, and for a while they talked about the weekend. Then the papers were handed round.",
)
COPULAS = frozenset({"is", "are", "was", "were"})


def variants(own: Probe, negated_prompts: Sequence[str] = ()) -> Iterator[Probe]:
    """The probe `own` after each distractor, and denied.

    negated_prompts: how the fact is denied, where somebody said so; else see `denied`.
    """
    for index, text in enumerate(DISTRACTORS):
        yield replace(own, probe_kind=ProbeKind.DISTRACTED, index=index, prompt=f"{text} {own.prompt}")
    for index, prompt in enumerate(negated_prompts or denied(own.prompt)):
        yield replace(own, probe_kind=ProbeKind.NEGATED, index=index, prompt=prompt)


def denied(prompt: str) -> list[str]:
    """The prompt and "not" where it ends in a form of "to be"; of other prompts no rule is safe."""
    words = prompt.split()
    return [f"{prompt.rstrip()} not"] if words and words[-1] in COPULAS else []
