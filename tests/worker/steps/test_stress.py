"""Audits with stressors, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from services.worker.analysis.page import render_page
from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from shared.measurement import Arm
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from tests.support.parity_audit import EDITED, PARITY_GPT2, parity_request
from tests.worker.steps.audits import (
    audit_of,
    claimed,
    report_of,
    rows_of,
    run_steps,
    scores_of,
    steps_of,
)

FT_L = {"name": "ft_l", "hyperparameters": {"layers": [1], "num_steps": 5, "norm_constraint": 0.01}}
GRACE = {"name": "grace", "hyperparameters": {"layers": [2]}}
WEIGHTS = [
    {"kind": "int4", "label": "int4-g16", "group_size": 16},
    {"kind": "bfloat16"},
    {"kind": "interpolation", "alpha": 0.5},
]


def stress_request(*stressors: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An audit of stressors alone; two of the control facts are unedited records instead."""
    body = parity_request(recipes=[], stressors=list(stressors), editors=[FT_L])
    return {**body, **changes}


def unedited() -> list[dict[str, Any]]:
    """Records about subjects that the request edits nothing of."""
    edits: list[dict[str, Any]] = json.loads((PARITY_GPT2 / "edits.json").read_text())
    return edits[EDITED:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stress")


@pytest.fixture(scope="module")
def run_audit(folder: Path) -> Callable[[dict[str, Any]], AuditContext]:
    def run(body: dict[str, Any]) -> AuditContext:
        context = claimed(folder, body, model_roots=(PARITY_GPT2, folder))
        before = [parameter.clone() for parameter in context.language_model.model.parameters()]
        work_on_audit(context)
        assert audit_of(context).status is AuditStatus.SUCCEEDED, audit_of(context).error
        assert not report_of(context).problems
        after = context.language_model.model.parameters()
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        return context

    return run


@pytest.fixture(scope="module")
def finished(run_audit: Callable[[dict[str, Any]], AuditContext]) -> AuditContext:
    """Two editors, one of which writes no weights, under every stressor of weights."""
    return run_audit(stress_request(*WEIGHTS, editors=[FT_L, GRACE]))


def test_every_stressor_is_put_upon_the_base_once_and_upon_every_edited_model(finished: AuditContext) -> None:
    steps = steps_of(finished, StepKind.STRESS)
    assert len(steps) == len(WEIGHTS) * (1 + 2)
    for step in steps:
        arm = Arm.BASE_STRESSED if step.inputs["edit_step"] is None else Arm.EDITED_STRESSED
        assert {row.arm for row in rows_of(finished, step)} == {arm}
    asked = {len(rows_of(finished, step)) for step in [*steps, *steps_of(finished, StepKind.EDIT)]}
    assert len(asked) == 1


def test_steps_record_how_far_the_weights_were_moved(finished: AuditContext) -> None:
    for step in steps_of(finished, StepKind.STRESS):
        moved = step.outcome["footprint"]["distance"]
        nothing_to_move = step.inputs["stressor"] == "interpolation" and step.inputs["editor"] != "ft_l"
        assert (moved == 0) == nothing_to_move, step.title
        warned = any("changes nothing" in warning for warning in step.outcome["warnings"])
        assert warned == (nothing_to_move and step.inputs["editor"] == "grace")


def test_base_is_the_same_under_interpolation(finished: AuditContext) -> None:
    def answers(step: Any) -> list[tuple[Any, ...]]:
        return [(row.fact_id, row.prompt, row.log_prob_answer) for row in rows_of(finished, step)]

    (stressed,) = [
        step
        for step in steps_of(finished, StepKind.STRESS)
        if step.inputs["stressor"] == "interpolation" and step.inputs["edit_step"] is None
    ]
    (base,) = steps_of(finished, StepKind.BASE)
    assert answers(stressed) == answers(base)


def test_stressed_models_are_shared_and_reused_like_tunings(
    finished: AuditContext, run_audit: Callable[[dict[str, Any]], AuditContext]
) -> None:
    again = run_audit(stress_request({**WEIGHTS[0], "label": "again"}, {"kind": "int8"}, seeds=[3]))
    steps = steps_of(again, StepKind.STRESS)
    assert {step.inputs["stressor"] for step in steps if step.source_step_id != step.id} == {"again"}
    assert [step.inputs["stressor"] for step in steps] == ["again", "again", "int8", "int8"]


def test_stress_steps_are_repeated_to_the_bit(finished: AuditContext, tmp_path: Path) -> None:
    again = claimed(tmp_path, stress_request(*WEIGHTS[:2]))
    work_on_audit(again)
    first = set(scores_of(finished))
    assert all(score in first for score in scores_of(again))


def test_further_edits_are_made_on_top_and_overwritten_ones_are_counted_apart(
    run_audit: Callable[[dict[str, Any]], AuditContext],
) -> None:
    body = stress_request(seeds=[0, 1])
    others = [
        {**edit, "target_new": body["edits"][index - 1]["target_new"]}
        for index, edit in enumerate(body["edits"])
    ]
    body["stressors"] = [
        {"kind": "further_edits", "label": "random", "count": 2, "edits": unedited()[:3]},
        {"kind": "further_edits", "label": "conflicting", "which": "conflicting", "edits": others[:2]},
    ]
    context = run_audit(body)
    steps = steps_of(context, StepKind.STRESS)
    seeds = sorted((step.inputs["stressor"], str(step.inputs["seed"])) for step in steps)
    assert seeds == sorted([("random", "0"), ("random", "1"), ("conflicting", "None")] * 2)
    made = {step.inputs["stressor"]: step.outcome["further_edits"]["made"] for step in steps}
    assert made == {"random": 2, "conflicting": 2}
    for step in steps:
        overwritten = ["edit:0", "edit:1"] if step.inputs["stressor"] == "conflicting" else []
        assert step.outcome["superseded"] == overwritten
        assert len(step.outcome["left_out"]) == (2 if step.inputs["stressor"] == "random" else 0)


@pytest.mark.parametrize("name", ["grace", "ike"])
def test_further_edits_join_whatever_the_editor_keeps(name: str, tmp_path: Path) -> None:
    further = {"kind": "further_edits", "edits": unedited()[:2]}
    context = claimed(tmp_path, stress_request(further, editors=[{"name": name}]))
    work_on_audit(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED, audit_of(context).error
    assert not report_of(context).problems


def test_adapter_is_merged_and_one_that_changed_since_the_plan_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(PARITY_GPT2 / "model")
    settings = LoraConfig(r=2, target_modules=["c_proj"], fan_in_fan_out=True, init_lora_weights=False)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    (tmp_path / "data").mkdir()
    body = stress_request({"kind": "lora_merge", "adapter": "local:adapter"})
    context = claimed(tmp_path / "data", body, model_roots=(PARITY_GPT2, tmp_path))
    run_steps(context, 4)
    (of_base, of_edited) = steps_of(context, StepKind.STRESS)
    assert of_base.status is StepStatus.SUCCEEDED
    assert of_base.outcome["footprint"]["distance"] > 0
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace("\n", "\n\n"))
    run_steps(context, 1)
    (_, of_edited) = steps_of(context, StepKind.STRESS)
    assert (of_edited.status, of_edited.cause) == (StepStatus.FAILED, Cause.USER)
    assert of_edited.error == "local:adapter changed since the audit began"


def test_adapter_of_another_model_fails_the_plan(tmp_path: Path) -> None:
    wide = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(PARITY_GPT2 / "model", n_embd=24, n_head=2)
    )
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        get_peft_model(wide, LoraConfig(r=2, target_modules=["c_proj"], fan_in_fan_out=True)).save_pretrained(
            tmp_path / "adapter"
        )
    (tmp_path / "data").mkdir()
    body = stress_request({"kind": "lora_merge", "adapter": "local:adapter"})
    context = claimed(tmp_path / "data", body, model_roots=(PARITY_GPT2, tmp_path))
    run_steps(context, 1)
    (plan,) = context.steps()
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert plan.error is not None
    assert plan.error.startswith(
        "stressor lora_merge: the adapter does not fit: base_model.model.transformer.h.0."
    )


def test_adapter_that_is_not_there_fails_the_plan(tmp_path: Path) -> None:
    context = claimed(tmp_path, stress_request({"kind": "lora_merge", "adapter": "local:nowhere"}))
    run_steps(context, 1)
    (plan,) = context.steps()
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert plan.error == "stressor lora_merge: there is no such directory"


def test_writing_and_reading_are_measured_of_every_stressed_model(
    run_audit: Callable[[dict[str, Any]], AuditContext],
) -> None:
    context = run_audit(stress_request(WEIGHTS[1], probing={"kinds": ["rewrite"], "fluency": True}))
    (part,) = report_of(context).stress
    arms = {Arm.BASE, Arm.BASE_STRESSED, Arm.EDITED, Arm.EDITED_STRESSED}
    for name in ("n-gram entropy", "perplexity"):
        assert {metric.arm for metric in part.fluency if metric.name == name} == arms
    perplexity = {metric.arm: metric.value for metric in part.fluency if metric.name == "perplexity"}
    assert perplexity[Arm.BASE] != perplexity[Arm.BASE_STRESSED]
    page = render_page(report_of(context))
    assert f"{part.configuration}: writing and reading" in page
    assert "N-gram entropy" in page
