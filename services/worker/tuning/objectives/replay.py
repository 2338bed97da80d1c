"""Replay: plain text among the training sequences, so that a model goes on seeing what it was trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from services.worker.tuning.objectives.examples import Example, TokenDataset
from shared.recipes import TextRecord, TrainingRecord


def with_replay(task: TokenDataset, plain_text: TokenDataset, share: float, seed: int) -> TokenDataset:
    """The task's sequences with so many of plain text behind them that these make up `share` of all.

    At least one, however small the share: what asks for replay does not go without.

    Which ones follows from the seed; where they are too few, all are taken as often as it needs. The
    trainer shuffles every epoch, so where they stand has no effect.
    """
    wanted = max(1, round(len(task) * share / (1 - share)))
    return replace(task, examples=task.examples + drawn(plain_text.examples, wanted, seed))


def drawn(examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """`count` examples, none twice more often than another, chosen by the seed."""
    whole, rest = divmod(count, len(examples))
    chosen = random.Random(seed).sample(examples, rest)  # noqa: S311 (not for secrets)
    return (*tuple(examples) * whole, *chosen)


def replayable(texts: Sequence[TextRecord], held_out: Sequence[TrainingRecord]) -> list[TextRecord]:
    """The texts without those that are held out, on which nothing may be learned."""
    kept_out = {record.text for record in held_out if isinstance(record, TextRecord)}
    return [record for record in texts if record.text not in kept_out]
