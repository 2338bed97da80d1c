"""Whose fault an error is, and whether it is one that passes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from services.worker.language_models.loading import ModelNotLoadable
from services.worker.language_models.memory import OutOfGpuMemory
from services.worker.steps.edit import stored_modification
from services.worker.steps.failures import InputDamaged, explain, is_passing
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStoreUnavailable
from shared.model_files import HubUnavailable, ModelNotUsable
from shared.states import Cause, StepKind
from shared.training_data import SourceUnavailable
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import claimed, run_steps, steps_of

PASSING = [
    ArtifactStoreUnavailable(OSError("the share is gone")),
    HubUnavailable("the hub answered with status 503"),
    SourceUnavailable("url:https://data.example/a.jsonl", "was answered with status 503"),
    ConnectionResetError(),
    TimeoutError(),
    *(
        OSError(number, "as the system says")
        for number in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EIO,
            errno.ESTALE,
            errno.ETIMEDOUT,
            errno.ENETUNREACH,
        )
    ),
]
LASTING = [
    ArtifactCorrupt("artifact ab/c is missing"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError("no number"),
    ModelNotUsable("its weights are pickled"),
    OutOfGpuMemory("prompts were scored", "CUDA out of memory."),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_surroundings_that_are_away_pass(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_other_errors_last(error: Exception) -> None:
    assert not is_passing(error)


def raised_from(cause: Exception) -> Exception:
    error = ModelNotLoadable("local:/models/a", "its weights cannot be read")
    error.__cause__ = cause
    return error


def test_error_passes_when_what_it_was_raised_from_does() -> None:
    assert is_passing(raised_from(OSError(errno.EIO, "Input/output error")))
    assert not is_passing(raised_from(OSError(errno.ENOENT, "No such file")))


def test_gpu_that_is_too_small_is_the_infrastructures_fault_and_says_what_did_not_fit() -> None:
    failure = explain(
        OutOfGpuMemory("prompts were scored", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    )
    assert failure.cause is Cause.INFRASTRUCTURE
    assert failure.reason == (
        "the GPU ran out of memory although prompts were scored one at a time: "
        "CUDA out of memory. Tried to allocate 2.00 GiB."
    )


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_delta_names_the_step_to_compute_again(tmp_path: Path, damage: str) -> None:
    context = claimed(tmp_path, parity_request(editors=parity_request()["editors"][1:]))
    run_steps(context, 3)  # the plan, the base, the edit
    (edit,) = steps_of(context, StepKind.EDIT)
    assert edit.artifact is not None
    assert edit.artifact_sha256 is not None
    assert stored_modification(context, edit.id).base_revision == context.language_model.revision
    (path,) = tmp_path.rglob(Path(edit.artifact).name)
    content = path.read_bytes()
    if damage == "missing":
        context.store.delete(Artifact(edit.artifact, edit.artifact_sha256))
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(InputDamaged, match=edit.artifact) as caught:
        stored_modification(context, edit.id)
    assert caught.value.step_id == edit.id
