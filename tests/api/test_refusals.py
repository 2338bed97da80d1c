"""Bad input is refused with the field at fault, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from shared.database import reading
from shared.model_references import InspectedModel, ModelNotUsable, parse_model_reference
from shared.settings import Settings
from shared.tables import Audit
from tests.api.conftest import MakeClient

Body = dict[str, Any]
Change = Callable[[Body], None]


def edit(**values: Any) -> Change:
    return lambda body: body["edits"][0].update(values)


def without(field: str) -> Change:
    return lambda body: body["edits"][0].pop(field)


def top(**values: Any) -> Change:
    return lambda body: body.update(values)


def recipe(**values: Any) -> Change:
    return lambda body: body["recipes"][0].update(values)


def repeat_edit(**values: Any) -> Change:
    return lambda body: body["edits"].append({**body["edits"][0], **values})


REFUSED: dict[str, tuple[Change, str]] = {
    "unknown field": (top(colour="red"), "/colour"),
    "deadline of no time": (top(deadlines={"queue_seconds": 0}), "/deadlines/queue_seconds"),
    "deadline of a year": (top(deadlines={"run_seconds": 365 * 86400}), "/deadlines/run_seconds"),
    "unknown deadline": (top(deadlines={"seconds": 60}), "/deadlines/seconds"),
    "no edits": (top(edits=[]), "/edits"),
    "edits that are no list": (top(edits={"prompt": "x"}), "/edits"),
    "missing subject": (without("subject"), "/edits/0/subject"),
    "subject that is no text": (edit(subject=3), "/edits/0/subject"),
    "prompt without a place for the subject": (edit(prompt="The capital is"), "/edits/0/prompt"),
    "paraphrase without the subject": (
        edit(paraphrases=["The capital of Spain is"]),
        "/edits/0/paraphrases/0",
    ),
    "empty target": (edit(target_new=""), "/edits/0/target_new"),
    "blank target": (edit(target_new="  \t "), "/edits/0/target_new"),
    "target of 10,000 characters": (edit(target_new="x" * 10_000), "/edits/0/target_new"),
    "target that is the old one": (edit(target_new="paris"), "/edits/0/target_new"),
    "control character in a target": (edit(target_new="Ly\x1bon"), "/edits/0/target_new"),
    "NUL in a prompt": (edit(prompt="The capital\0 of {} is"), "/edits/0/prompt"),
    "half a surrogate pair": (edit(target_new="\ud800"), "/edits/0/target_new"),
    "NUL in a label": (top(labels={"team": "a\0b"}), "/labels/team"),
    "label key with a quotation mark": (top(labels={'te"am': "a"}), '/labels/te"am'),
    "repeated edit": (repeat_edit(), "/edits/1"),
    "conflicting edit": (repeat_edit(target_new="Nice"), "/edits/1"),
    "unknown editor": (top(editors=[{"name": "grafting"}]), "/editors/0/name"),
    "wrong hyperparameter": (
        top(editors=[{"name": "memit", "hyperparameters": {"v_lr": -1}}]),
        "/editors/0/hyperparameters/v_lr",
    ),
    "layer that the built-in model lacks": (
        top(editors=[{"name": "memit", "hyperparameters": {"layers": [6]}}]),
        "/editors/0/hyperparameters/layers",
    ),
    "paraphrase that repeats the prompt": (
        edit(paraphrases=["The  capital of France is"]),
        "/edits/0/paraphrases/0",
    ),
    "no unedited records to be trained on": (
        top(editors=[{"name": "mend", "hyperparameters": {"training": "unedited"}}]),
        "/editors/0/hyperparameters/training",
    ),
    "more paraphrases asked for than there are": (
        top(editors=[{"name": "memit", "paraphrases": [5]}]),
        "/edits/0/paraphrases",
    ),
    "recipes of the same name": (lambda body: body["recipes"].append(body["recipes"][0]), "/recipes"),
    "seed beyond 31 bits": (top(seeds=[2**31]), "/seeds/0"),
    "gate rule for nothing": (
        top(gate=[{"metric": "retention", "at_least": 0.5, "editor": "rome"}]),
        "/gate/0",
    ),
    "gate rule with two thresholds": (top(gate=[{"at_least": 0.5, "at_most": 0.6}]), "/gate/0"),
    "rank of an unknown size": (recipe(update={"kind": "lora", "rank": 0}), "/recipes/0/update/rank"),
    "unknown update": (recipe(update={"kind": "magic"}), "/recipes/0/update"),
    "data from two origins": (
        recipe(data={"source": "builtin:docstrings", "records": [{"text": "a"}, {"text": "b"}]}),
        "/recipes/0/data",
    ),
    "one record": (recipe(data={"records": [{"text": "a"}]}), "/recipes/0/data"),
    "record without text": (
        recipe(data={"records": [{"text": "a"}, {"text": ""}]}),
        "/recipes/0/data/records/1/text",
    ),
    "records for another objective": (
        recipe(data={"records": [{"prompt": "a", "completion": "b"}] * 2}),
        "/recipes/0/data/records/0",
    ),
    "records that are the same": (recipe(data={"records": [{"text": "a"}] * 2}), "/recipes/0/data/records"),
    "data from the network": (recipe(data={"source": "https://example.org/a.txt"}), "/recipes/0/data/source"),
    "data file that is not there": (recipe(data={"source": "file:absent.txt"}), "/recipes/0/data/source"),
    "data file out of its root": (recipe(data={"source": "file:../../etc/passwd"}), "/recipes/0/data/source"),
    "more records than any machine counts": (
        recipe(data={"source": "builtin:docstrings", "limit": 10**30}),
        "/recipes/0/data/limit",
    ),
    "model of an unknown kind": (top(model="https://example.org/model"), "/model"),
    "unknown built-in model": (top(model="builtin:atlas"), "/model"),
    "local model without a root": (top(model="local:/etc"), "/model"),
}


@pytest.mark.parametrize(("change", "pointer"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_request_names_the_field(
    embedded: TestClient, embedded_engine: Engine, request_body: Body, change: Change, pointer: str
) -> None:
    change(request_body)
    headers = {"Content-Type": "application/json"}
    response = embedded.post("/audits", content=json.dumps(request_body), headers=headers)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert pointer in [error["pointer"] for error in response.json()["errors"]], response.text
    with reading(embedded_engine) as session:
        assert session.execute(select(func.count()).select_from(Audit)).scalar_one() == 0


def test_every_field_at_fault_is_named_at_once(embedded: TestClient, request_body: Body) -> None:
    del request_body["model"]
    request_body["seeds"] = ["zero"]
    request_body["edits"][0]["subject"] = ""
    errors = embedded.post("/audits", json=request_body).json()["errors"]
    assert sorted(error["pointer"] for error in errors) == ["/edits/0/subject", "/model", "/seeds/0"]


def test_every_edit_that_disagrees_with_an_earlier_one_is_named(
    embedded: TestClient, request_body: Body
) -> None:
    repeat_edit()(request_body)
    repeat_edit(target_new="Nowhere")(request_body)
    errors = embedded.post("/audits", json=request_body).json()["errors"]
    assert [(error["pointer"], error["detail"].split(":")[0]) for error in errors] == [
        ("/edits/1", "edits.1 repeats edits.0"),
        ("/edits/2", "edits.2 conflicts with edits.0"),
    ]


def test_long_list_of_faults_is_cut_and_says_so(embedded: TestClient, request_body: Body) -> None:
    request_body["edits"] = [{}] * 200
    problem = embedded.post("/audits", json=request_body).json()
    assert (len(problem["errors"]), problem["detail"]) == (
        100,
        "800 fields are at fault; the first 100 are listed.",
    )


def test_list_whose_items_are_at_fault_is_not_called_too_short(
    embedded: TestClient, request_body: Body
) -> None:
    request_body["edits"][0]["subject"] = ""
    errors = embedded.post("/audits", json=request_body).json()["errors"]
    assert [error["pointer"] for error in errors] == ["/edits/0/subject"]


def test_reason_of_an_unusable_model_is_passed_on(make_embedded: MakeClient, request_body: Body) -> None:
    def inspect(_text: str, _settings: Settings) -> InspectedModel:
        raise ModelNotUsable("its weights are stored as pickle")

    problem = make_embedded(inspector=inspect).post("/audits", json=request_body).json()
    assert (problem["type"], problem["errors"]) == (
        "/problems/model-unusable",
        [{"pointer": "/model", "detail": "its weights are stored as pickle"}],
    )


def test_model_stored_as_pickle_is_refused(
    make_embedded: MakeClient, request_body: Body, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "pickled"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    (model / "tokenizer.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    client = make_embedded(model_roots=(tmp_path / "models",))
    response = client.post("/audits", json={**request_body, "model": "local:pickled"})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/model-unusable")


def test_layers_that_the_model_does_not_have_are_refused(
    make_embedded: MakeClient, request_body: Body
) -> None:
    def inspect(text: str, _: Settings) -> InspectedModel:
        return InspectedModel(parse_model_reference(text), None, "gpt2", "GPT2LMHeadModel", 6)

    request_body["editors"] = [{"name": "ft_l"}, {"name": "memit", "hyperparameters": {"layers": [3, 6]}}]
    errors = make_embedded(inspector=inspect).post("/audits", json=request_body).json()["errors"]
    assert errors == [
        {
            "pointer": "/editors/1/hyperparameters/layers",
            "detail": "layers: the model has blocks 0 to 5, not 6",
        }
    ]


@pytest.mark.parametrize("key", ["", "two words", "k" * 256])
def test_idempotency_key_of_another_form_is_refused(
    embedded: TestClient, request_body: Body, key: str
) -> None:
    response = embedded.post("/audits", json=request_body, headers={"Idempotency-Key": key})
    assert [error["pointer"] for error in response.json()["errors"]] == ["/header/idempotency-key"]
