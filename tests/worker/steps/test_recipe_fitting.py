"""What each tuning freezes is settled in the plan, once for all that freeze the same, or refused there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.steps.context import AuditContext
from services.worker.steps.failures import StepFailed
from services.worker.steps.recipe_fitting import check_recipe
from shared.recipes import PromptTuningUpdate
from shared.states import Cause, StepKind, StepStatus
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import claimed, run_steps, steps_of
from tests.worker.tuning.models import recipe, tiny_language_model

EDITORS = [
    {"name": "memit", "hyperparameters": {"layers": [1]}},
    {"name": "rome", "hyperparameters": {"layers": [1]}},
]


def planned(folder: Path, editors: list[dict[str, Any]], **recipe: Any) -> AuditContext:
    body = parity_request()
    body["editors"] = editors
    body["seeds"] = [0, 1]
    body["recipes"][0] |= {"steps": 1, "probe_count": 1, **recipe}
    body["gate"] = [{"metric": "retention", "at_least": 0.5}]
    context = claimed(folder, body)
    run_steps(context, 1)
    return context


def test_base_is_tuned_once_for_all_that_freeze_the_same(tmp_path: Path) -> None:
    freezings = ["edited", "layers:1", "parameters:transformer.h.1.*", "edited±1"]
    context = planned(tmp_path, EDITORS, freeze=freezings)
    tunings = steps_of(context, StepKind.TUNE)
    of_base = [step for step in tunings if step.inputs["edit_step"] is None]
    assert len(tunings) - len(of_base) == len(EDITORS) * len(freezings) * 2  # seeds
    assert len(of_base) == 2 * 2  # block 1, and its neighbours too; seeds
    same = {step.key for step in tunings if step.inputs["editor"] == "memit" and step.inputs["seed"] == 0}
    assert len(same) == 2  # three of four are one another's twins


def test_single_parameters_are_in_the_inputs_in_few_words(tmp_path: Path) -> None:
    context = planned(tmp_path, EDITORS[:1], freeze=["all_but_edited"])
    for step in steps_of(context, StepKind.TUNE):
        assert 1 not in step.inputs["frozen_blocks"]
        assert "transformer.wte.weight" in step.inputs["frozen_parameters"]
        assert len(step.inputs["frozen_parameters"]) == 4


def test_edited_blocks_that_no_editor_wrote_to_are_told_to_be_free(tmp_path: Path) -> None:
    context = planned(tmp_path, [{"name": "ike"}, EDITORS[0]], freeze=["none", "edited", "edited±1"])
    (plan,) = steps_of(context, StepKind.PLAN)
    assert plan.outcome is not None
    told = [warning for warning in plan.outcome["warnings"] if "nothing is frozen" in warning]
    recipe = context.request.recipes[0].name
    assert [warning.partition(":")[0] for warning in told] == [
        f"ike · k=0 · {recipe} · freeze={freeze}" for freeze in ("edited", "edited±1")
    ]


@pytest.mark.parametrize(
    ("editor", "recipe", "reason"),
    [
        ("memit", {"freeze": ["layers:40"]}, "freeze=layers:40: the model has no block 40"),
        ("memit", {"freeze": ["parameters:*.gate.*"]}, "no parameter of the model matches '*.gate.*'"),
        ("ike", {"freeze": ["all_but_edited"]}, "after ike: freeze=all_but_edited: no block was edited"),
        ("memit", {"update": {"kind": "qlora"}}, "qlora: needs a CUDA device"),
        ("memit", {"update": {"kind": "prompt_tuning", "virtual_tokens": 1000}}, "virtual tokens"),
        ("memit", {"update": {"kind": "lora"}, "freeze": ["parameters:*"]}, "every block is frozen"),
    ],
)
def test_recipe_that_cannot_be_tuned_fails_the_plan_as_the_users_fault(
    tmp_path: Path, editor: str, recipe: dict[str, Any], reason: str
) -> None:
    context = planned(tmp_path, [{"name": editor}], **{"freeze": ["none"], **recipe})
    [plan] = steps_of(context, StepKind.PLAN)
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert plan.error is not None
    assert reason in plan.error


def test_recipe_that_several_processes_cannot_share_is_refused_in_the_plan() -> None:
    model, chosen = tiny_language_model(), recipe(update=PromptTuningUpdate(virtual_tokens=2))
    check_recipe(model, chosen, {}, [])
    with pytest.raises(StepFailed, match="recipe tiny: update 'prompt_tuning' cannot be trained by 2 proc"):
        check_recipe(model, chosen, {}, [], processes=2)
