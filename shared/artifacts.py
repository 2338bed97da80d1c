"""Files that steps leave behind, addressed by their content, on any fsspec store."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


class ArtifactCorrupt(Exception):
    """An artifact is missing or its content no longer has its hash."""


@dataclass(frozen=True)
class Artifact:
    """Where a file is in the store, and the SHA-256 of its bytes (hex)."""

    name: str
    sha256: str


class ArtifactStore:
    """Content-addressed: a name says what is inside, so writing twice is harmless."""

    def __init__(self, url: str) -> None:
        self._filesystem, self._root = fsspec.core.url_to_fs(url)

    def put(self, content: bytes, suffix: str) -> Artifact:
        """Store `content`; a crash leaves the whole file or none."""
        sha256 = hashlib.sha256(content).hexdigest()
        artifact = Artifact(f"{sha256[:2]}/{sha256}{suffix}", sha256)
        path = self._path(artifact)
        if isinstance(self._filesystem, LocalFileSystem):
            _write_atomically(Path(path), content)
        else:  # object stores publish an object only when its upload is complete
            self._filesystem.pipe_file(path, content)
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        """Read an artifact back.

        Raises:
            ArtifactCorrupt: it is missing, truncated or altered.
        """
        try:
            content: bytes = self._filesystem.cat_file(self._path(artifact))
        except FileNotFoundError:
            raise ArtifactCorrupt(f"artifact {artifact.name} is missing") from None
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise ArtifactCorrupt(f"artifact {artifact.name} does not have its hash")
        return content

    def check(self) -> None:
        """Make sure that the store is there and can be written to.

        Raises:
            OSError: it is not.
        """
        if isinstance(self._filesystem, LocalFileSystem):
            root = Path(self._root)
            root.mkdir(parents=True, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError(f"{root} cannot be written to")
        else:  # asks the server; what it answers about an empty place does not matter
            self._filesystem.exists(self._root)

    def _path(self, artifact: Artifact) -> str:
        return f"{self._root}/{artifact.name}"


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a crash
    finally:
        os.close(directory)
