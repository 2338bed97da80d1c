"""Records by their content: their hash, and which of them are held out of training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from shared.recipes import TrainingRecord


def content_hash(records: Iterable[TrainingRecord]) -> str:
    """Hex SHA-256 of the records in their order, one line of canonical JSON each."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(canonical(record) + b"\n")
    return digest.hexdigest()


def split_held_out(
    records: Sequence[TrainingRecord], share: float, seed: int = 0
) -> tuple[list[TrainingRecord], list[TrainingRecord]]:
    """Records to train on and records held out: about `share` of them, at least one distinct on each side.

    Which side a record falls on follows from its content and the seed, never from its position, and
    copies of a record fall on the same side. Both lists keep the order of `records`.
    Raises ValueError when there are fewer than two distinct records.
    """
    ranks = {record: hashlib.sha256(b"%d:%b" % (seed, canonical(record))).digest() for record in records}
    if len(ranks) < 2:
        raise ValueError("two distinct records are needed to hold one out")
    held_out_count = min(max(round(share * len(ranks)), 1), len(ranks) - 1)
    held_out = set(sorted(ranks, key=ranks.__getitem__)[:held_out_count])
    return (
        [record for record in records if record not in held_out],
        [record for record in records if record in held_out],
    )


def canonical(record: TrainingRecord) -> bytes:
    """The record as UTF-8 JSON with sorted keys and no spaces."""
    return json.dumps(record.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
