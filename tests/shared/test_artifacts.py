"""An artifact that is read back is the one that was written, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStore

CONTENT = b"\x00delta\xff" * 100


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = (tmp_path / "artifacts").as_uri() if request.param == "file" else f"memory://{tmp_path.name}"
    return ArtifactStore(url)


def test_artifact_is_read_back(store: ArtifactStore) -> None:
    assert store.get(store.put(CONTENT, ".safetensors")) == CONTENT


def test_same_content_is_stored_under_the_same_name(store: ArtifactStore) -> None:
    assert store.put(CONTENT, ".safetensors") == store.put(CONTENT, ".safetensors")


def test_missing_artifact_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactCorrupt, match="missing"):
        store.get(Artifact("ab/absent.html", "ab"))


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT[:-1] + b"\xfe"])
def test_damaged_artifact_is_refused(tmp_path: Path, damaged: bytes) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    artifact = store.put(CONTENT, ".safetensors")
    (tmp_path / artifact.name).write_bytes(damaged)
    with pytest.raises(ArtifactCorrupt, match="hash"):
        store.get(artifact)


def test_damaged_artifact_is_healed_by_storing_it_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    artifact = store.put(CONTENT, ".safetensors")
    (tmp_path / artifact.name).write_bytes(b"")
    store.put(CONTENT, ".safetensors")
    assert store.get(artifact) == CONTENT


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        ArtifactStore(tmp_path.as_uri()).put(CONTENT, ".safetensors")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_store_that_is_there_passes_its_check(store: ArtifactStore) -> None:
    store.check()


def test_store_whose_place_is_taken_by_a_file_fails_its_check(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_bytes(b"")
    with pytest.raises(OSError, match="File exists"):
        ArtifactStore((tmp_path / "artifacts").as_uri()).check()
