"""Audits in which nothing is trained: base, edited and tuned checkpoints are supplied, on a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from shared.measurement import Arm
from shared.reports import ConfigurationReport
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from tests.support.parity_audit import PARITY_GPT2, parity_request
from tests.worker.steps.audits import audit_of, claimed, report_of, rows_of, run_steps, steps_of

MODEL = PARITY_GPT2 / "model"
EDITED_WEIGHT, TUNED_WEIGHT = "transformer.h.1.mlp.c_proj.weight", "transformer.h.2.attn.c_attn.weight"


def save_changed(folder: Path, *names: str) -> None:
    """The tiny model with noise in some of its weights, the same in every directory that has it."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
    for name in names:
        parameter = model.get_parameter(name)
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    model.save_pretrained(folder)
    for file in MODEL.iterdir():
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_changed(folder / "edited", EDITED_WEIGHT)
    save_changed(folder / "edited-tuned", EDITED_WEIGHT, TUNED_WEIGHT)
    save_changed(folder / "base-tuned", TUNED_WEIGHT)
    return folder


def request(**tuned: Any) -> dict[str, Any]:
    """A supplied edited model, and one that was tuned from it."""
    model = {
        "name": "theirs",
        "edited_tuned": "local:edited-tuned",
        "base_tuned": "local:base-tuned",
        **tuned,
    }
    supplied = {"name": "supplied", "hyperparameters": {"checkpoint": "local:edited"}}
    return parity_request(recipes=[], tuned=[model], editors=[supplied], seeds=[5])


def run(folder: Path, body: dict[str, Any], checkpoints: Path) -> AuditContext:
    context = claimed(folder, body, model_roots=(PARITY_GPT2, checkpoints))
    work_on_audit(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED, audit_of(context).error
    return context


def configuration_of(context: AuditContext) -> ConfigurationReport:
    (part,) = report_of(context).configurations
    return part


@pytest.fixture(scope="module")
def finished(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    return run(tmp_path_factory.mktemp("audit"), request(), checkpoints)


def scores(context: AuditContext, arm: Arm) -> list[tuple[Any, ...]]:
    return [
        (row.fact_id, row.probe_kind, row.probe_index, row.log_prob_answer, row.predicted_token)
        for step in context.steps()
        for row in rows_of(context, step)
        if row.arm is arm
    ]


def test_nothing_is_trained_and_every_arm_is_probed(finished: AuditContext) -> None:
    kinds = [step.kind for step in finished.steps()]
    assert kinds == [
        StepKind.PLAN,
        StepKind.BASE,
        StepKind.EDIT,
        StepKind.PROBE,
        StepKind.PROBE,
        StepKind.ANALYSE,
    ]
    part = configuration_of(finished)
    assert str(part.configuration) == "supplied · k=0 · theirs · freeze=none"
    assert [(trial.seed, trial.status) for trial in part.trials] == [(5, StepStatus.SUCCEEDED)]
    assert {share.arm for share in part.shares} == {Arm.BASE, Arm.BASE_TUNED, Arm.EDITED, Arm.EDITED_TUNED}
    assert part.interaction[0].value is not None
    assert part.curve == []
    assert not report_of(finished).problems


@pytest.mark.parametrize(
    ("arm", "checkpoint"), [(Arm.BASE_TUNED, "base-tuned"), (Arm.EDITED_TUNED, "edited-tuned")]
)
def test_tuned_arm_is_what_the_checkpoint_itself_answers(
    arm: Arm, checkpoint: str, finished: AuditContext, checkpoints: Path, tmp_path: Path
) -> None:
    """As `edited` arm of an audit in which the checkpoint stands for the edited model."""
    body = request()
    body["editors"][0]["hyperparameters"]["checkpoint"] = f"local:{checkpoint}"
    context = claimed(tmp_path, body, model_roots=(PARITY_GPT2, checkpoints))
    run_steps(context, 3)
    assert scores(context, Arm.EDITED) == scores(finished, arm)


def test_base_is_given_back_bit_for_bit(finished: AuditContext) -> None:
    fresh = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").state_dict()
    kept = finished.language_model.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


def test_without_a_tuned_base_all_but_the_interaction_is_reported(checkpoints: Path, tmp_path: Path) -> None:
    context = run(tmp_path, request(base_tuned=None), checkpoints)
    part = configuration_of(context)
    assert all(found.value is None for found in part.interaction)
    assert part.retention_controls[0].value is not None
    assert len(steps_of(context, StepKind.PROBE)) == 1


def test_weights_are_known_by_their_content_and_not_by_their_path(
    finished: AuditContext, checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints, tmp_path / "copies")
    shutil.copytree(tmp_path / "copies" / "edited-tuned", tmp_path / "copies" / "moved")
    save_changed(tmp_path / "copies" / "base-tuned", TUNED_WEIGHT, EDITED_WEIGHT.replace("h.1", "h.0"))
    body = request(name="renamed", edited_tuned="local:moved")
    context = claimed(tmp_path, body, model_roots=(PARITY_GPT2, tmp_path / "copies"))
    run_steps(context, 1)
    keys = [
        {step.title.split("(")[0]: step.key for step in steps_of(one, StepKind.PROBE)}
        for one in (finished, context)
    ]
    same = {title: keys[0][title] == key for title, key in keys[1].items()}
    assert same == {"probe: base, tuned elsewhere ": False, "probe: supplied, k=0, tuned elsewhere ": True}


def test_checkpoint_that_changed_since_the_plan_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path / "copies")
    context = claimed(tmp_path, request(), model_roots=(PARITY_GPT2, tmp_path / "copies"))
    run_steps(context, 1)
    save_changed(tmp_path / "copies" / "base-tuned", TUNED_WEIGHT, EDITED_WEIGHT)
    run_steps(context, 3)
    of_base = steps_of(context, StepKind.PROBE)[0]
    assert (of_base.status, of_base.cause) == (StepStatus.FAILED, Cause.USER)
    assert "local:base-tuned is not of the revision" in (of_base.error or "")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (f"local:{MODEL}", "nothing was tuned"),
        ("local:nowhere", "there is no such directory"),
        ("builtin:almanac", "which the base model has not"),
    ],
)
def test_what_cannot_be_probed_fails_the_plan(
    reference: str, reason: str, checkpoints: Path, tmp_path: Path
) -> None:
    body = request(base_tuned=reference)
    context = claimed(tmp_path, body, model_roots=(PARITY_GPT2, checkpoints))
    run_steps(context, 1)
    (plan,) = context.steps()
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert reason in (plan.error or "")
    assert (plan.error or "").startswith(f"tuned theirs: {reference}: ")


def test_writing_and_reading_are_measured_of_checkpoints_too(checkpoints: Path, tmp_path: Path) -> None:
    body = {**request(), "probing": {"kinds": ["rewrite"], "fluency": True}}
    found = configuration_of(run(tmp_path, body, checkpoints)).fluency
    perplexity = {metric.arm: metric.value for metric in found if metric.name == "perplexity"}
    assert perplexity.keys() == {Arm.BASE, Arm.BASE_TUNED, Arm.EDITED, Arm.EDITED_TUNED}
    assert len(set(perplexity.values())) == 4
