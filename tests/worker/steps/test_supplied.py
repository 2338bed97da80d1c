"""Audits of edits that were made elsewhere, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from services.cli import main
from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from shared.measurement import TUNED, Arm
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from tests.support.parity_audit import PARITY_GPT2, parity_request
from tests.worker.steps.audits import (
    audit_of,
    claimed,
    report_of,
    rows_of,
    run_steps,
    steps_of,
)

EDITED_BLOCK = 1


def request(**changes: Any) -> dict[str, Any]:
    """An audit with one editor, FT-L, as the command is told to run it too."""
    body = parity_request(**changes)
    body["editors"] = [editor for editor in body["editors"] if editor["name"] == "ft_l"]
    return body


def with_supplied(body: dict[str, Any], **hyperparameters: Any) -> dict[str, Any]:
    return {**body, "editors": [{"name": "supplied", "hyperparameters": hyperparameters}]}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model as `holdfast edit` saves it, as a whole and as a delta."""
    folder, body = tmp_path_factory.mktemp("edited"), request()
    (folder / "edits.json").write_text(json.dumps(body["edits"]))
    (folder / "settings.json").write_text(json.dumps(body["editors"][0]["hyperparameters"]))
    command = ["edit", "--model", PARITY_GPT2 / "model", "--edits", folder / "edits.json"]
    command += ["--editor", "ft_l", "--hyperparameters", folder / "settings.json"]
    for options in (["--out", folder / "whole"], ["--out", folder / "delta", "--delta-only"]):
        result = CliRunner().invoke(main.app, [str(part) for part in (*command, *options)])
        assert result.exit_code == 0, result.stderr
    return folder


def measured(folder: Path, body: dict[str, Any], edited: Path) -> dict[Arm, list[tuple[Any, ...]]]:
    """The scores of every probe, by arm, of an audit that is run to its end."""
    context = claimed(folder, body, model_roots=(PARITY_GPT2, edited))
    work_on_audit(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    assert not report_of(context).problems
    found: dict[Arm, list[tuple[Any, ...]]] = {}
    for row in sorted(
        (row for step in context.steps() for row in rows_of(context, step)),
        key=lambda row: (row.arm, row.tuning_step, row.fact_id, row.probe_kind, row.probe_index),
    ):
        scores = row.model_dump(exclude={"id", "step_id"})
        found.setdefault(Arm(row.arm), []).append(tuple(scores.values()))
    return found


@pytest.fixture(scope="module")
def by_the_editor(edited: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Arm, list[tuple[Any, ...]]]:
    """What the audit measures when it makes the edits itself."""
    return measured(tmp_path_factory.mktemp("audits"), request(), edited)


@pytest.mark.parametrize("source", ["checkpoint", "delta"])
def test_supplied_model_gives_the_arms_that_its_editor_gives(
    source: str, edited: Path, by_the_editor: dict[Arm, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    place = {"checkpoint": "local:whole", "delta": "local:delta/modification.safetensors"}[source]
    found = measured(tmp_path, with_supplied(request(), **{source: place}), edited)
    assert found == by_the_editor
    assert set(found) == set(TUNED.arms)


def planned(folder: Path, body: dict[str, Any], edited: Path) -> AuditContext:
    """An audit whose plan has run."""
    folder.mkdir(exist_ok=True)
    context = claimed(folder, body, model_roots=(PARITY_GPT2, edited))
    run_steps(context, 1)
    return context


def test_blocks_that_were_edited_are_found_and_frozen(edited: Path, tmp_path: Path) -> None:
    context = planned(tmp_path, with_supplied(request(), checkpoint="local:whole"), edited)
    [edit] = steps_of(context, StepKind.EDIT)
    assert edit.inputs["hyperparameters"]["layers"] == [EDITED_BLOCK]
    frozen = {
        step.inputs["freeze"]: step.inputs["frozen_blocks"] for step in steps_of(context, StepKind.TUNE)
    }
    assert frozen == {"none": [], "edited": [EDITED_BLOCK]}


def test_another_checkpoint_in_the_same_place_is_another_step(edited: Path, tmp_path: Path) -> None:
    shutil.copytree(edited / "whole", tmp_path / "whole")
    body = with_supplied(request(), checkpoint="local:whole")
    first = planned(tmp_path / "first", body, tmp_path)
    again = planned(tmp_path / "again", body, tmp_path)
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    weights["transformer.h.3.mlp.c_proj.weight"] += 0.01
    save_file(weights, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    other = planned(tmp_path / "other", body, tmp_path)
    keys = [steps_of(context, StepKind.EDIT)[0].key for context in (first, again, other)]
    assert keys[0] == keys[1] != keys[2]


def test_checkpoint_that_changed_since_the_plan_is_refused(edited: Path, tmp_path: Path) -> None:
    shutil.copytree(edited / "whole", tmp_path / "whole")
    context = planned(tmp_path / "data", with_supplied(request(), checkpoint="local:whole"), tmp_path)
    (tmp_path / "whole" / "config.json").write_text(
        (tmp_path / "whole" / "config.json").read_text().replace("\n", "\n\n")
    )
    run_steps(context, 2)
    [edit] = steps_of(context, StepKind.EDIT)
    assert (edit.status, edit.cause) == (StepStatus.FAILED, Cause.USER)
    assert "local:whole is not of the revision" in (edit.error or "")


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        ({"checkpoint": f"local:{PARITY_GPT2 / 'model'}"}, "nothing was edited"),
        ({"checkpoint": "builtin:almanac"}, "which the base model has not"),
        ({"checkpoint": "local:nowhere"}, "there is no such directory"),
        ({"delta": "local:nowhere"}, "there is no such file"),
        ({"delta": "local:whole/model.safetensors"}, "is not a stored modification"),
        ({"checkpoint": "local:whole", "layers": [9]}, "blocks 0 to 3, not 9"),
    ],
)
def test_what_cannot_be_audited_fails_the_plan_before_anything_is_computed(
    hyperparameters: dict[str, Any], reason: str, edited: Path, tmp_path: Path
) -> None:
    context = planned(tmp_path, with_supplied(request(), **hyperparameters), edited)
    [plan] = context.steps()
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert reason in (plan.error or "")
