"""The arms that an interrupted tuning has scored, as text that its checkpoint carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple

from services.worker.steps.context import ArmScores
from services.worker.tuning.errors import CheckpointUnusable
from shared.measurement import Arm, Probe, ProbeScore


def to_notes(arms: Sequence[ArmScores], asked: Sequence[Probe]) -> str:
    """Every score of arms that were asked the probes `asked`; numbers come back to the last bit.

    Python's JSON writes the shortest digits that read back as the same number, and knows infinities and
    not-a-number.
    """
    scored = [[arm.tuning_step, [astuple(score) for score in arm.scores]] for arm in arms]
    return json.dumps({"asked": digest_of(asked), "arms": scored})


def from_notes(notes: str, arm: Arm, asked: Sequence[Probe]) -> list[ArmScores]:
    """The arms that `to_notes` wrote; raises CheckpointUnusable when they were asked other probes."""
    noted = json.loads(notes)
    if noted["asked"] != digest_of(asked):
        raise CheckpointUnusable("the checkpoint holds the scores of other probes")
    return [
        ArmScores(arm, tuning_step, list(asked), [ProbeScore(*score) for score in scores])
        for tuning_step, scores in noted["arms"]
    ]


def digest_of(probes: Sequence[Probe]) -> str:
    """SHA-256 (hex) of the probes in their order."""
    document = json.dumps([asdict(probe) for probe in probes])
    return hashlib.sha256(document.encode()).hexdigest()
