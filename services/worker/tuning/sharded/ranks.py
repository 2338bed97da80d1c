"""The processes that train together, as the step's process sees them: started, told, heard and ended."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.worker.tuning.errors import RankFailed
from services.worker.tuning.sharded import messages
from services.worker.tuning.sharded.messages import Message

log = logging.getLogger(__name__)

MODULE = "services.worker.tuning.sharded.rank"
ROOT_CAUSE_SECONDS = 5.0  # between what a rank dies of and what another, that waited for it, dies of then
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class Rank:
    """One process. It is in this one's process group, so that it is cancelled with it."""

    def __init__(self, directory: Path, index: int) -> None:
        heard, tells = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603 (our own command)
                [sys.executable, "-m", MODULE, str(directory), str(index), str(tells)],
                stdin=subprocess.PIPE,
                pass_fds=[tells],
                env=surroundings(index),
            )
        except BaseException:
            os.close(heard)
            raise
        finally:
            os.close(tells)
        self.heard = heard
        self.unfinished = b""  # a line of which more is to come
        self.error: Message | None = None
        self.has_ended = False
        self.is_gone = False

    def tell(self, line: bytes) -> None:
        """Say something; one that is gone is found out when it is listened to."""
        assert self.process.stdin is not None  # noqa: S101 (it was opened as a pipe)
        with suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def read(self) -> list[Message]:
        """What it has said since; it is gone when it says nothing."""
        data = os.read(self.heard, 2**16)
        self.is_gone = not data
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Leave nothing of it behind."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None  # noqa: S101 (it was opened as a pipe)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.heard)


class Ranks:
    """All ranks of one run. A context: on leaving it, none is left, whatever happened."""

    def __init__(self, directory: Path, processes: int) -> None:
        self.ranks: list[Rank] = []
        self.said = deque[Message]()
        self.selector = selectors.DefaultSelector()
        try:
            for index in range(processes):
                rank = Rank(directory, index)
                self.ranks.append(rank)
                self.selector.register(rank.heard, selectors.EVENT_READ, rank)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def tell(self, kind: str, **content: Any) -> None:
        """Say something to every rank."""
        line = messages.line(kind, **content)
        for rank in self.ranks:
            rank.tell(line)

    def hear(self) -> Message:
        """The next thing that is said for all ranks; the end, once it is that of every one.

        Raises MicroBatchTooLarge, FrozenWeightsChanged or RankFailed.
        """
        while not self.said:
            self.listen(None)
            if any(has_failed(rank) for rank in self.ranks):
                self.fail()
        return self.said.popleft()

    def listen(self, seconds: float | None) -> None:
        """Take what is said next, or let the time pass."""
        for key, _ in self.selector.select(seconds):
            rank: Rank = key.data
            for message in rank.read():
                self.take(rank, message)
            if rank.is_gone:
                self.selector.unregister(key.fileobj)

    def take(self, rank: Rank, message: Message) -> None:
        """Sort a message."""
        match message["message"]:
            case messages.READY:
                log.info("%s holds %d of the numbers that learn", self.name(rank), message["held"])
            case messages.ERROR:
                rank.error = message
            case messages.END:
                rank.has_ended = True
                if all(other.has_ended for other in self.ranks):
                    self.said.append(message)
            case _:
                self.said.append(message)

    def fail(self) -> None:
        """Raise what the run failed of: the first cause, and not what other ranks died of in turn."""
        deadline = time.monotonic() + ROOT_CAUSE_SECONDS
        while (left := deadline - time.monotonic()) > 0 and not all(map(has_failed, self.ranks)):
            if self.first_cause() is not None:
                break
            self.listen(left)
        raise self.first_cause() or next(
            messages.error_of(rank.error, self.name(rank)) for rank in self.ranks if rank.error
        )

    def first_cause(self) -> Exception | None:
        """An error that ranks are known to fail with, or the sudden end of one, if there was any."""
        for rank in self.ranks:
            if rank.error and messages.is_known(rank.error):
                return messages.error_of(rank.error, self.name(rank))
        for rank in self.ranks:
            if rank.is_gone and not rank.error and not rank.has_ended:
                return RankFailed(f"{self.name(rank)} {death(rank.process.wait())}")
        return None

    def name(self, rank: Rank) -> str:
        """Which rank it is, counted from 1."""
        return f"process {self.ranks.index(rank) + 1} of the {len(self.ranks)} that train together"

    def end(self) -> None:
        """End every rank."""
        self.selector.close()
        for rank in self.ranks:
            rank.end()
        self.ranks = []


def has_failed(rank: Rank) -> bool:
    """Whether a rank has told of an error, or is gone before its end."""
    return rank.error is not None or (rank.is_gone and not rank.has_ended)


def death(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name
    hint = " (as the kernel does when memory runs out)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def surroundings(index: int) -> dict[str, str]:
    """A rank's environment: it sees one GPU, and reaches other ranks on this machine alone."""
    gpus = os.environ.get(VISIBLE_GPUS, "").split(",")
    own = gpus[index] if index < len(gpus) and gpus[index] else str(index)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return {
        **os.environ,
        VISIBLE_GPUS: own,
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
