"""An artifact that is read back is the one that was written, or it is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from shared.artifacts import (
    ABANDONED_AFTER_SECONDS,
    CHUNK_BYTES,
    UNFINISHED,
    Artifact,
    ArtifactCorrupt,
    ArtifactStore,
    ArtifactStoreUnavailable,
)

CONTENT = b"\x00delta\xff" * 100
LARGE = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"
DAMAGED = [b"", CONTENT[:-1], CONTENT[:-1] + b"\xfe"]

Put = Callable[[ArtifactStore, bytes], Artifact]
Read = Callable[[ArtifactStore, Artifact], object]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (tmp_path / "artifacts").as_uri() if request.param == "file" else f"memory://{tmp_path.name}"


@pytest.fixture
def store(url: str) -> ArtifactStore:
    return ArtifactStore(url)


@pytest.fixture(params=["put", "put_file"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Either way to store content."""

    def from_file(store: ArtifactStore, content: bytes) -> Artifact:
        (tmp_path / "source").write_bytes(content)
        return store.put_file(tmp_path / "source", ".safetensors")

    if request.param == "put_file":
        return from_file
    return lambda store, content: store.put(content, ".safetensors")


@pytest.fixture(params=["get", "get_file", "verify"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Any way to read an artifact."""
    if request.param == "get_file":
        return lambda store, artifact: store.get_file(artifact, tmp_path / "copy")
    return lambda store, artifact: getattr(store, request.param)(artifact)


def overwrite(url: str, artifact: Artifact, content: bytes) -> None:
    """Change a stored file behind the store's back."""
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{root}/{artifact.name}", content)


def files_under(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [b"", CONTENT, LARGE])
def test_artifact_is_read_back(store: ArtifactStore, put: Put, tmp_path: Path, content: bytes) -> None:
    artifact = put(store, content)
    store.verify(artifact)
    store.get_file(artifact, tmp_path / "copy")
    assert store.get(artifact) == (tmp_path / "copy").read_bytes() == content


def test_same_content_is_stored_under_the_same_name(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(LARGE)
    assert store.put(LARGE, ".html") == store.put_file(tmp_path / "source", ".html")


def test_missing_artifact_is_refused(store: ArtifactStore, read: Read, tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="missing"):
        read(store, Artifact("ab/absent.html", "ab"))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("damaged", DAMAGED)
def test_damaged_artifact_is_refused(
    store: ArtifactStore, url: str, read: Read, tmp_path: Path, damaged: bytes
) -> None:
    artifact = store.put(CONTENT, ".safetensors")
    overwrite(url, artifact, damaged)
    with pytest.raises(ArtifactCorrupt, match="hash"):
        read(store, artifact)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("damaged", DAMAGED)
def test_damaged_artifact_is_healed_by_storing_it_again(
    store: ArtifactStore, url: str, put: Put, damaged: bytes
) -> None:
    artifact = put(store, CONTENT)
    overwrite(url, artifact, damaged)
    put(store, CONTENT)
    assert store.get(artifact) == CONTENT


def test_deleted_artifact_is_gone_and_deleting_it_again_is_harmless(store: ArtifactStore) -> None:
    artifact = store.put(CONTENT, ".safetensors")
    store.delete(artifact)
    with pytest.raises(ArtifactCorrupt, match="missing"):
        store.get(artifact)
    store.delete(artifact)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_failed_write_leaves_no_file_and_names_the_store(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = tmp_path / "artifacts"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr("shared.artifacts._pieces", fail)
    elif call == "fsync":
        monkeypatch.setattr("os.fsync", fail)
    else:
        monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ArtifactStoreUnavailable, match="OSError"):
        put(ArtifactStore(store.as_uri()), CONTENT)
    assert files_under(store) == []


# Python ignores the signal that a file beyond its limit brings, so that write() fails as on a full disk.
STORE_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from shared.artifacts import ArtifactStore, ArtifactStoreUnavailable

store, source, limit = ArtifactStore(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for put in (lambda: store.put(source.read_bytes(), ".bin"), lambda: store.put_file(source, ".bin")):
    try:
        put()
    except ArtifactStoreUnavailable as error:
        print(error.__cause__)
"""


def test_file_that_the_disk_has_no_room_for_leaves_nothing_behind(tmp_path: Path) -> None:
    store, source = tmp_path / "artifacts", tmp_path / "source"
    source.write_bytes(LARGE)
    arguments = [store.as_uri(), str(source), str(2 * CHUNK_BYTES)]
    ran = subprocess.run(
        [sys.executable, "-c", STORE_UNDER_A_LIMIT, *arguments], check=True, capture_output=True, text=True
    )
    assert ran.stdout.count("File too large") == 2
    assert files_under(store) == []


def test_copy_that_its_disk_has_no_room_for_is_removed_and_not_blamed_on_the_store(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.put(LARGE, ".safetensors")
    plain_open = Path.open

    class FullFile:
        """A file that takes the first piece only."""

        def __init__(self, path: Path) -> None:
            self.file = plain_open(path, "wb")

        def __enter__(self) -> FullFile:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, chunk: bytes) -> None:
            if self.file.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(chunk)

    monkeypatch.setattr(Path, "open", lambda path, _mode: FullFile(path))
    with pytest.raises(OSError, match="No space left"):
        store.get_file(artifact, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


class LostConnection(Exception):
    """A store's own kind of error, of no family that is known here."""


def test_error_of_the_stores_own_kind_is_told_from_a_damaged_artifact(
    store: ArtifactStore, put: Put, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.put(CONTENT, ".safetensors")

    def fail(*_: object, **__: object) -> None:
        raise LostConnection("the peer went away")

    filesystem = store._filesystem
    for name in ("open", "pipe_file", "put_file", "rm_file"):
        monkeypatch.setattr(filesystem, name, fail)
    monkeypatch.setattr("tempfile.mkstemp", fail)
    acts: list[Callable[[], object]] = [
        lambda: put(store, CONTENT),
        lambda: read(store, artifact),
        lambda: store.delete(artifact),
    ]
    for act in acts:
        with pytest.raises(ArtifactStoreUnavailable, match=r"\(LostConnection\)$"):
            act()
    assert not (tmp_path / "copy").exists()


def test_place_that_is_taken_by_a_file_makes_the_store_unavailable(tmp_path: Path, put: Put) -> None:
    (tmp_path / "artifacts").write_bytes(b"")
    with pytest.raises(ArtifactStoreUnavailable, match=r"FileExistsError|NotADirectoryError"):
        put(ArtifactStore((tmp_path / "artifacts").as_uri()), CONTENT)


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / f"{UNFINISHED}old", tmp_path / f"{UNFINISHED}young"
    for path, age in ((old, 1.1), (young, 0.5)):
        path.write_bytes(CONTENT)
        written_at = path.stat().st_mtime - age * ABANDONED_AFTER_SECONDS
        os.utime(path, (written_at, written_at))
    ArtifactStore(tmp_path.as_uri()).put(CONTENT, ".html")
    assert not old.exists()
    assert young.exists()


def test_store_that_is_there_passes_its_check(store: ArtifactStore) -> None:
    store.check()


def test_store_whose_place_is_taken_by_a_file_fails_its_check(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_bytes(b"")
    with pytest.raises(OSError, match="File exists"):
        ArtifactStore((tmp_path / "artifacts").as_uri()).check()
