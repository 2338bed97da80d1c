"""Edited models that a request supplies are checked like the audited one, and pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlmodel import col
from starlette.testclient import TestClient

from shared.database import reading
from shared.model_references import InspectedModel, ModelNotUsable, parse_model_reference
from shared.settings import Settings
from shared.tables import Audit
from tests.api.conftest import MakeClient
from tests.api.test_retries import end

Body = dict[str, Any]
COMMIT, LATER = "a" * 40, "b" * 40


def supplied(body: Body, **hyperparameters: Any) -> Body:
    return {**body, "editors": [{"name": "supplied", "hyperparameters": hyperparameters}]}


def hub(commits: list[str], architecture: str = "GPT2LMHeadModel", blocks: int = 6) -> Any:
    """Stands for a hub: notes what is looked at, and is at the next of `commits` each time."""

    def inspect(text: str, _: Settings) -> InspectedModel:
        if text.startswith("builtin:"):
            return InspectedModel(parse_model_reference(text), None, "gpt2", "GPT2LMHeadModel", 6)
        inspected.append(text)
        return InspectedModel(parse_model_reference(text), commits.pop(0), "gpt2", architecture, blocks)

    inspected: list[str] = []
    inspect.inspected = inspected  # type: ignore[attr-defined]
    return inspect


def stored_editors(engine: Engine) -> list[Any]:
    with reading(engine) as session:
        requests = session.execute(select(col(Audit.request)).order_by(col(Audit.created_at))).scalars()
        return [request["editors"][0]["hyperparameters"] for request in requests]


def test_commit_found_at_submission_is_kept(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    client = make_client(inspector=hub([COMMIT]))
    response = client.post("/audits", json=supplied(request_body, checkpoint="hf:org/edited@main"))
    assert response.status_code == 202, response.text
    assert stored_editors(engine) == [{"checkpoint": "hf:org/edited@main", "revision": COMMIT}]


def test_retry_takes_the_commit_that_was_found_before(
    make_client: MakeClient, engine: Engine, request_body: Body
) -> None:
    inspect = hub([COMMIT, COMMIT])
    client = make_client(inspector=inspect)
    audit_id = client.post("/audits", json=supplied(request_body, checkpoint="hf:org/edited")).json()["id"]
    response = client.post(f"/audits/{end(engine, audit_id)}/retry")
    assert response.status_code == 202, response.text
    assert inspect.inspected == ["hf:org/edited@main", f"hf:org/edited@{COMMIT}"]


def test_same_request_under_the_same_key_is_the_same_audit_though_the_hub_moved_on(
    make_client: MakeClient, request_body: Body
) -> None:
    client = make_client(inspector=hub([COMMIT, LATER]))
    body, headers = supplied(request_body, checkpoint="hf:org/edited"), {"Idempotency-Key": "one"}
    first, second = (client.post("/audits", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]


def faults(client: TestClient, body: Body) -> list[tuple[str, str]]:
    response = client.post("/audits", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    return [(error["pointer"], error["detail"]) for error in response.json()["errors"]]


@pytest.mark.parametrize(
    ("hyperparameters", "pointer", "detail"),
    [
        ({"checkpoint": "builtin:atlas"}, "checkpoint", "there is no built-in model"),
        ({"checkpoint": "local:/etc"}, "checkpoint", "not under an allowed model root"),
        ({"checkpoint": "local:nowhere"}, "checkpoint", "there is no such directory"),
        ({"delta": "local:../secret.safetensors"}, "delta", "not under an allowed model root"),
        ({"delta": "local:nowhere.safetensors"}, "delta", "there is no such file"),
        ({"delta": "local:."}, "delta", "there is no such file"),
    ],
)
def test_reference_that_is_not_allowed_is_refused(
    make_embedded: MakeClient,
    request_body: Body,
    tmp_path: Path,
    hyperparameters: Body,
    pointer: str,
    detail: str,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.safetensors").touch()
    client = make_embedded(model_roots=(tmp_path / "models",))
    [(where, why)] = faults(client, supplied(request_body, **hyperparameters))
    assert where == f"/editors/0/hyperparameters/{pointer}"
    assert detail in why


def test_link_out_of_the_model_roots_is_refused(
    make_embedded: MakeClient, request_body: Body, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.safetensors").touch()
    (tmp_path / "models" / "delta.safetensors").symlink_to(tmp_path / "secret.safetensors")
    client = make_embedded(model_roots=(tmp_path / "models",))
    [(_, why)] = faults(client, supplied(request_body, delta="local:delta.safetensors"))
    assert why == "it is not under an allowed model root"


def test_delta_under_a_model_root_is_accepted(
    make_embedded: MakeClient, request_body: Body, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "delta.safetensors").touch()
    client = make_embedded(model_roots=(tmp_path / "models",))
    response = client.post("/audits", json=supplied(request_body, delta="local:delta.safetensors"))
    assert response.status_code == 202, response.text


@pytest.mark.parametrize(
    ("architecture", "blocks", "detail"),
    [
        ("LlamaForCausalLM", 6, "its architecture is LlamaForCausalLM, that of the audited model GPT2LMHead"),
        ("GPT2LMHeadModel", 12, "its number of blocks is 12, that of the audited model 6"),
    ],
)
def test_other_anatomy_is_refused(
    make_embedded: MakeClient, request_body: Body, architecture: str, blocks: int, detail: str
) -> None:
    client = make_embedded(inspector=hub([COMMIT], architecture, blocks))
    [(where, why)] = faults(client, supplied(request_body, checkpoint="hf:org/edited"))
    assert where == "/editors/0/hyperparameters/checkpoint"
    assert why.startswith(detail)


def test_model_that_the_hub_refuses_is_refused_with_its_reason(
    make_embedded: MakeClient, request_body: Body
) -> None:
    def inspect(text: str, _: Settings) -> InspectedModel:
        if text.startswith("hf:"):
            raise ModelNotUsable("org/edited is gated on the hub and our token has no access to it")
        return InspectedModel(parse_model_reference(text), None, None, None, 6)

    client = make_embedded(inspector=inspect)
    [(_, why)] = faults(client, supplied(request_body, checkpoint="hf:org/edited"))
    assert "is gated" in why


@pytest.mark.parametrize(
    ("editor", "pointer"),
    [
        ({"hyperparameters": {}}, "/editors/0/hyperparameters"),
        ({"hyperparameters": {"checkpoint": "edited"}}, "/editors/0/hyperparameters/checkpoint"),
        (
            {"hyperparameters": {"checkpoint": "local:a", "delta": "local:b"}},
            "/editors/0/hyperparameters",
        ),
        (
            {"hyperparameters": {"checkpoint": "builtin:almanac"}, "paraphrases": [0, 1]},
            "/editors/0/paraphrases",
        ),
    ],
)
def test_choice_that_makes_no_sense_is_refused(
    embedded: TestClient, request_body: Body, editor: Body, pointer: str
) -> None:
    [(where, _)] = faults(embedded, {**request_body, "editors": [{"name": "supplied", **editor}]})
    assert where == pointer
