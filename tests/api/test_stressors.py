"""Stressors and models tuned elsewhere: refused where they cannot be, pinned and counted where they can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlmodel import col
from starlette.testclient import TestClient

from services.api.expected_steps import expected_steps
from shared.database import reading
from shared.requests import AuditRequest
from shared.states import StepKind
from shared.tables import Audit
from tests.api.conftest import MakeClient
from tests.api.test_supplied_models import COMMIT, LATER, faults, hub

Body = dict[str, Any]

EDIT = {"prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris"}


def more(**changes: Any) -> Body:
    """A record about a subject that the small request does not edit, unless it is said otherwise."""
    return {**EDIT, "subject": "Norway", **changes}


def stressors(*found: Body, **changes: Any) -> Callable[[Body], Body]:
    return lambda body: {**body, "recipes": [], "stressors": list(found), **changes}


def tuned(**changes: Any) -> Callable[[Body], Body]:
    return lambda body: {**body, "tuned": [{"name": "theirs", "edited_tuned": "local:x", **changes}]}


def gate(**rule: Any) -> Callable[[Body], Body]:
    int8 = {"kind": "int8"}
    return lambda body: {
        **body,
        "stressors": [int8],
        "gate": [{"metric": "retention", "at_least": 0.8, **rule}],
    }


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (stressors(), "/recipes"),
        (stressors({"kind": "int9"}), "/stressors/0"),
        (stressors({"kind": "int4", "group_size": 0}), "/stressors/0/group_size"),
        (stressors({"kind": "magnitude_pruning", "share": 1}), "/stressors/0/share"),
        (stressors({"kind": "interpolation", "alpha": 0}), "/stressors/0/alpha"),
        (stressors({"kind": "int8", "bits": 8}), "/stressors/0/bits"),
        (stressors({"kind": "int8"}, {"kind": "int8"}), "/stressors"),
        (stressors({"kind": "lora_merge", "adapter": "hf:org/adapter"}), "/stressors/0/adapter"),
        (stressors({"kind": "lora_merge", "adapter": "local:nowhere"}), "/stressors/0/adapter"),
        (stressors({"kind": "further_edits"}), "/stressors/0"),
        (stressors({"kind": "further_edits", "edits": [more()], "count": 2}), "/stressors/0/count"),
        (stressors({"kind": "further_edits", "edits": [more(), more()]}), "/stressors/0/edits/1"),
        (stressors({"kind": "further_edits", "edits": [more(subject="France")]}), "/stressors/0/edits/0"),
        (
            stressors({"kind": "further_edits", "which": "same_subject", "edits": [more()]}),
            "/stressors/0/edits/0",
        ),
        (
            stressors({"kind": "further_edits", "which": "conflicting", "edits": [more()]}),
            "/stressors/0/edits/0",
        ),
        (
            stressors(
                {"kind": "further_edits", "edits": [more()]},
                editors=[{"name": "supplied", "hyperparameters": {"checkpoint": "builtin:almanac"}}],
            ),
            "/editors/0/name",
        ),
        (tuned(editor="rome"), "/tuned/0/editor"),
        (tuned(edited_tuned="x"), "/tuned/0/edited_tuned"),
        (tuned(edited_tuned="local:/etc"), "/tuned/0/edited_tuned"),
        (tuned(edited_tuned="builtin:almanac", base_tuned="local:nowhere"), "/tuned/0/base_tuned"),
        (gate(stressor="int4"), "/gate/0"),
        (gate(stressor="int8", recipe="english"), "/gate/0"),
    ],
)
def test_what_cannot_be_done_is_refused_at_its_field(
    make_embedded: MakeClient,
    request_body: Body,
    tmp_path: Path,
    change: Callable[[Body], Body],
    pointer: str,
) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    client = make_embedded(model_roots=(tmp_path / "models",))
    found = faults(client, change(request_body))
    assert pointer in [where for where, _ in found], found


def accepted(client: TestClient, body: Body) -> str:
    response = client.post("/audits", json=body)
    assert response.status_code == 202, response.text
    audit_id: str = response.json()["id"]
    return audit_id


def stored(engine: Engine) -> Body:
    with reading(engine) as session:
        request: Body = session.execute(select(col(Audit.request))).scalar_one()
        return request


def test_commits_of_tuned_models_are_kept(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    client = make_client(inspector=hub([COMMIT, LATER]))
    accepted(client, tuned(edited_tuned="hf:org/tuned@main", base_tuned="hf:org/base")(request_body))
    (found,) = stored(engine)["tuned"]
    assert found["edited_tuned"] == f"hf:org/tuned@{COMMIT}"
    assert found["base_tuned"] == f"hf:org/base@{LATER}"


def test_tuned_model_of_another_architecture_is_refused(
    make_embedded: MakeClient, request_body: Body
) -> None:
    client = make_embedded(inspector=hub([COMMIT], architecture="LlamaForCausalLM"))
    ((where, why),) = faults(client, tuned(edited_tuned="hf:org/tuned")(request_body))
    assert where == "/tuned/0/edited_tuned"
    assert "its architecture is LlamaForCausalLM" in why


def test_adapter_under_a_model_root_is_accepted(
    make_embedded: MakeClient, request_body: Body, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    (folder / "adapter_model.safetensors").touch()
    client = make_embedded(model_roots=(tmp_path / "models",))
    accepted(client, stressors({"kind": "lora_merge", "adapter": "local:adapter"})(request_body))


def test_default_gate_of_stressors_alone_is_about_them(
    embedded: TestClient, embedded_engine: Engine, request_body: Body
) -> None:
    request_body.pop("gate", None)
    accepted(embedded, stressors({"kind": "int8"})(request_body))
    assert {rule["stressor"] for rule in stored(embedded_engine)["gate"]} == {"*"}


def test_expected_steps_count_what_the_plan_lays_out(request_body: Body) -> None:
    body = {
        **request_body,
        "editors": [{"name": "memit"}, {"name": "ft_l"}],
        "seeds": [0, 1, 2],
        "recipes": [],
        "stressors": [
            {"kind": "int8"},  # the base and two edited models
            {"kind": "further_edits", "edits": [more()]},  # the base by either editor, two edited models
            {"kind": "further_edits", "label": "one", "edits": [more()], "count": 1},  # the same, by seed
        ],
        "tuned": [{"name": "theirs", "edited_tuned": "local:x", "base_tuned": "local:y", "editor": "memit"}],
    }
    body.pop("gate", None)
    found = expected_steps(AuditRequest.model_validate(body))
    assert (found[StepKind.STRESS], found[StepKind.PROBE], found[StepKind.TUNE]) == (3 + 4 + 3 * 4, 2, 0)
