"""What the supervisor tells its child, and the child its supervisor, a line of JSON at a time."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from shared.leases import Lease

LEASE_LOST_STATUS = 75  # EX_TEMPFAIL: the audit is somebody else's now, or is being cancelled
LEFT = b"left\n"  # the child's only answer: it has ended its attempt and waits for the next lease


class Order(StrEnum):
    """What a child can be told while it works; it is given no lease after the first two."""

    HAND_OVER = "hand_over"  # stop as soon as what was done can be kept
    FINISH = "finish"  # end the step at hand, take no other
    PAUSE = "pause"  # compute nothing until told to
    RESUME = "resume"


@dataclass(frozen=True)
class Orders:
    """What the child has been told so far; to hand over and to finish last until it ends."""

    hand_over: threading.Event = field(default_factory=threading.Event)
    finish: threading.Event = field(default_factory=threading.Event)
    _resumed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._resumed.set()

    @property
    def leaving(self) -> bool:
        """Whether no further step is to be taken."""
        return self.hand_over.is_set() or self.finish.is_set()

    def take(self, order: Order) -> None:
        """Remember an order."""
        if order is Order.PAUSE:
            self._resumed.clear()
        else:
            told = {Order.HAND_OVER: self.hand_over, Order.FINISH: self.finish, Order.RESUME: self._resumed}
            told[order].set()

    def wait_while_paused(self) -> None:
        """Return when the child may compute."""
        self._resumed.wait()


class AskedToLeave(Exception):
    """A step was stopped half-way for another worker to begin it anew; nothing of it was kept."""


def lease_line(lease: Lease) -> bytes:
    """The line that hands a lease to the child."""
    return json.dumps({"lease": asdict(lease)}).encode() + b"\n"


def order_line(order: Order) -> bytes:
    """The line that gives the child an order."""
    return json.dumps({"order": order}).encode() + b"\n"


def read_line(line: bytes) -> Lease | Order:
    """What a line says."""
    message = json.loads(line)
    return Lease(**message["lease"]) if "lease" in message else Order(message["order"])
