"""What the step's process and its ranks tell each other: one JSON object per line."""

from __future__ import annotations

import json
from typing import Any

from services.worker.tuning.errors import MicroBatchTooLarge, RankFailed
from services.worker.tuning.freezing import FrozenWeightsChanged

Message = dict[str, Any]

# To every rank: after each optimiser step they wait for GO_ON.
GATHER = "gather"  # the weights that learn, into the file `path`
SAVE = "save"  # a checkpoint, into the file `path`; with `around`
GO_ON = "go on"  # or `stop`

# By every rank: that it begins, and with how many of the numbers that learn (`held`); and how it ended.
READY = "ready"
END = "end"  # all steps were done; with `tokens_seen`
ERROR = "error"  # with `kind`, and `text` or what the kind needs

# By the first one, for all.
STEP = "step"  # an optimiser step was done; with `state` and `logs`
WRITTEN = "written"
NOT_WRITTEN = "not written"  # the file could not be; with the system's `number`, if it has one, and `reason`


def line(message: str, **content: Any) -> bytes:
    """A message as it is sent."""
    return json.dumps({"message": message, **content}).encode() + b"\n"


def error_line(error: BaseException) -> bytes:
    """The error that a rank dies of."""
    kind = type(error).__name__
    match error:
        case MicroBatchTooLarge():
            return line(ERROR, kind=kind, micro_batch=error.micro_batch)
        case FrozenWeightsChanged():
            return line(ERROR, kind=kind, parameters=list(error.parameters))
        case _:
            return line(ERROR, kind=kind, text=str(error))


def is_known(message: Message) -> bool:
    """Whether an error is one of those that a training is known to fail with."""
    return message["kind"] in {MicroBatchTooLarge.__name__, FrozenWeightsChanged.__name__}


def error_of(message: Message, which: str) -> Exception:
    """The error that a rank told of; which: that rank, in words."""
    match message["kind"]:
        case MicroBatchTooLarge.__name__:
            return MicroBatchTooLarge(message["micro_batch"])
        case FrozenWeightsChanged.__name__:
            return FrozenWeightsChanged(message["parameters"])
        case kind:
            return RankFailed(f"{which} failed: {kind}: {message['text']}")
