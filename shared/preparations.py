"""What must be made, in a step of its own, before an edit can be."""

from __future__ import annotations

from enum import StrEnum


class Preparation(StrEnum):
    """What a `prepare` step makes. It is kept, and reused by content."""

    HYPERNETWORK = "hypernetwork"  # turns gradients into edits (MEND)
    PARAPHRASES = "paraphrases"  # under which edits are made as well
