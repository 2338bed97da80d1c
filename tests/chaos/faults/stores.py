"""What goes wrong with the database and the artifact store."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from shared.database import reading
from shared.states import StepKind, StepStatus
from shared.tables import Step
from tests.chaos.faults.fault import Fault, Hit, NothingToHit, Scene

LOCK_SQLITE = """
import signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
signal.pause()
"""


@dataclass
class StopDatabase(Fault):
    """The database is away: the server stopped at once, or the file locked by a stranger."""

    kind = "stop_database"

    def aim(self, scene: Scene) -> Hit:
        """The database, if it is there."""
        return self.take("database", scene)

    def strike(self, scene: Scene) -> None:
        """Stop or lock it."""
        self._locker: subprocess.Popen[bytes] | None = None
        if scene.deployment.database:
            scene.deployment.database.stop()
            return
        path = scene.deployment.engine.url.database
        self._locker = subprocess.Popen([sys.executable, "-c", LOCK_SQLITE, str(path)])

    def heal(self, scene: Scene) -> None:
        """Start or unlock it."""
        if self._locker is not None:
            self._locker.kill()
            self._locker.wait()
        elif scene.deployment.database:
            scene.deployment.database.start()
        scene.away.discard("database")


@dataclass
class FillStore(Fault):
    """The artifact store has no byte left: every write fails with ENOSPC, in the middle of the file."""

    kind = "fill_store"

    def aim(self, scene: Scene) -> Hit:
        """The store, if it is a file system of its own."""
        if not scene.deployment.store_is_limited:
            raise NothingToHit
        return self.take("store", scene)

    def strike(self, scene: Scene) -> None:
        """Take all the space that is left."""
        self._filler = scene.deployment.store.with_name("filler")
        space = os.statvfs(self._filler.parent)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize))

    def heal(self, scene: Scene) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)
        scene.away.discard("store")


@dataclass
class HideStore(Fault):
    """The artifact store is away: it can neither be read nor written to, and comes back as it was."""

    kind = "hide_store"

    def aim(self, scene: Scene) -> Hit:
        """The store, once there is one."""
        if not scene.deployment.store.is_dir():
            raise NothingToHit
        return self.take("store", scene)

    def strike(self, scene: Scene) -> None:
        """Put a file where the store was."""
        store = scene.deployment.store
        store.rename(store.with_name("hidden"))
        store.touch()

    def heal(self, scene: Scene) -> None:
        """Bring it back."""
        store = scene.deployment.store
        store.unlink()
        store.with_name("hidden").rename(store)
        scene.away.discard("store")


@dataclass
class DamageArtifact(Fault):
    """A stored preparation, delta or checkpoint is cut short, or one bit of it flips."""

    kind = "damage_artifact"
    truncated: bool
    which: float

    def aim(self, scene: Scene) -> Hit:
        """One of the artifacts that steps name; nobody is hit until it is read."""
        query = select(col(Step.artifact), col(Step.checkpoint)).where(
            or_(
                (col(Step.kind).in_([StepKind.PREPARE, StepKind.EDIT]))
                & (col(Step.status) == StepStatus.SUCCEEDED),
                col(Step.checkpoint).is_not(None),
            )
        )
        try:
            with reading(scene.deployment.engine) as session:
                named = {name for row in session.execute(query) for name in row if name}
        except DBAPIError:
            raise NothingToHit from None
        there = sorted(name for name in named if (scene.deployment.store / name).is_file())
        if not there:
            raise NothingToHit
        self._name = there[int(self.which * len(there))]
        return Hit(target=self._name)

    def strike(self, scene: Scene) -> None:
        """Damage it where it lies."""
        path = scene.deployment.store / self._name
        if not path.exists():
            return  # a checkpoint that was forgotten in this moment
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if self.truncated:
                file.truncate(size // 2)
                return
            file.seek(int(self.which * size))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
