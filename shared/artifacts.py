"""Files that steps leave behind, addressed by their content, on any fsspec store."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

CHUNK_BYTES = 2**20
log = logging.getLogger(__name__)

UNFINISHED = "unfinished-"  # how a local file is called while it is written
ABANDONED_AFTER_SECONDS = 24 * 3600.0  # without a byte more, an unfinished file's writer was killed


class ArtifactCorrupt(Exception):
    """An artifact is missing or its content no longer has its hash."""


class ArtifactStoreUnavailable(Exception):
    """The store itself fails: it is away, full or refuses. Nothing is known of the artifact.

    Its text is for everybody; what the store said, which may name places, is the cause's.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the artifact store is away, full or refuses ({type(error).__name__})")


@dataclass(frozen=True)
class Artifact:
    """Where a file is in the store, and the SHA-256 of its bytes (hex)."""

    name: str
    sha256: str

    @classmethod
    def of_content(cls, sha256: str, suffix: str) -> Artifact:
        """The artifact that content of this hash is stored as."""
        return cls(f"{sha256[:2]}/{sha256}{suffix}", sha256)


class ArtifactStore:
    """Content-addressed: a name says what is inside, so writing twice is harmless, and heals.

    Every method but `check` raises ArtifactStoreUnavailable when the store fails.
    """

    def __init__(self, url: str) -> None:
        self._filesystem, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._filesystem, LocalFileSystem)

    def put(self, content: bytes, suffix: str) -> Artifact:
        """Store `content`; a failure or a crash leaves the whole file under its name, or none."""
        if self._local:
            return self._write_locally(io.BytesIO(content), suffix)
        artifact = Artifact.of_content(hashlib.sha256(content).hexdigest(), suffix)
        with _failures_named():  # object stores publish an object only when its upload is complete
            self._filesystem.pipe_file(self._path(artifact), content)
        return artifact

    def put_file(self, path: Path, suffix: str) -> Artifact:
        """Store a local file of any size, as `put` does, a piece at a time."""
        with path.open("rb") as source:
            if self._local:
                return self._write_locally(source, suffix)
            artifact = Artifact.of_content(hashlib.file_digest(source, "sha256").hexdigest(), suffix)
        with _failures_named():
            self._filesystem.put_file(str(path), self._path(artifact))
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        """Read an artifact back.

        Raises:
            ArtifactCorrupt: it is missing, truncated or altered.
        """
        return b"".join(self._checked(artifact))

    def get_file(self, artifact: Artifact, path: Path) -> None:
        """Copy an artifact to a local file, a piece at a time; a failure leaves no file.

        Raises:
            ArtifactCorrupt: see `get`.
            OSError: the local file cannot be written.
        """
        try:
            with path.open("wb") as file:
                for chunk in self._checked(artifact):
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def verify(self, artifact: Artifact) -> None:
        """Read an artifact through without keeping it.

        Raises:
            ArtifactCorrupt: see `get`.
        """
        for _ in self._checked(artifact):
            pass

    def delete(self, artifact: Artifact) -> None:
        """Remove an artifact, if it is there."""
        with _failures_named():
            try:
                self._filesystem.rm_file(self._path(artifact))
            except FileNotFoundError:
                return

    def check(self) -> None:
        """Make sure that the store is there and can be written to.

        Raises:
            OSError: it is not.
        """
        if self._local:
            root = Path(self._root)
            root.mkdir(parents=True, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError(f"{root} cannot be written to")
        else:  # asks the server; what it answers about an empty place does not matter
            self._filesystem.exists(self._root)

    def _path(self, artifact: Artifact) -> str:
        return f"{self._root}/{artifact.name}"

    def _checked(self, artifact: Artifact) -> Iterator[bytes]:
        """The artifact's bytes; that they were the right ones is known when the last has been given."""
        digest = hashlib.sha256()
        with _failures_named():
            try:
                with self._filesystem.open(self._path(artifact), "rb") as source:
                    for chunk in _pieces(source):
                        digest.update(chunk)
                        yield chunk
            except FileNotFoundError:
                raise ArtifactCorrupt(f"artifact {artifact.name} is missing") from None
        if digest.hexdigest() != artifact.sha256:
            raise ArtifactCorrupt(f"artifact {artifact.name} does not have its hash")

    def _write_locally(self, source: BinaryIO, suffix: str) -> Artifact:
        """Write beside the artifacts while hashing, then rename: a reader sees all of it or nothing."""
        root = Path(self._root)
        digest = hashlib.sha256()
        with _failures_named():
            root.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root)
            descriptor, name = tempfile.mkstemp(dir=root, prefix=UNFINISHED)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for chunk in _pieces(source):
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                artifact = Artifact.of_content(digest.hexdigest(), suffix)
                place = Path(self._path(artifact))
                place.parent.mkdir(exist_ok=True)
                Path(name).replace(place)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            for directory in (place.parent, root):  # the rename, and a new directory, must survive a crash
                _synchronise(directory)
        return artifact


@contextmanager
def _failures_named() -> Iterator[None]:
    """Whatever a store raises, and each kind raises its own, becomes ArtifactStoreUnavailable."""
    try:
        yield
    except (ArtifactCorrupt, ArtifactStoreUnavailable):
        raise
    except Exception as error:
        log.warning("the artifact store failed: %s: %s", type(error).__name__, error)
        raise ArtifactStoreUnavailable(error) from error


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # finished, or removed by another writer, in this moment
            if path.stat().st_mtime < time.time() - ABANDONED_AFTER_SECONDS:
                path.unlink()


def _synchronise(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
