"""Results are complete, in a fixed order, and the same as JSON pages and as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from sqlmodel import col
from starlette.testclient import TestClient

from services.api import results
from services.api.results import neutralised
from shared.database import transaction
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.states import AuditStatus, StepKind, StepStatus
from shared.tables import ProbeRow, Step
from tests.support.audits import add_audit, add_step

CSV = {"Accept": "text/csv"}
FACTS = 3
MODES = len(Mode)


def add_scores(engine: Engine, step_id: str, arm: Arm, tuning_step: int, **columns: Any) -> None:
    """Scores of one probe per fact; the last fact is a control."""
    rows = [
        {
            "step_id": step_id,
            "arm": arm,
            "tuning_step": tuning_step,
            "fact_id": f"fact-{number}",
            "fact_kind": FactKind.CONTROL if number == FACTS - 1 else FactKind.EDIT,
            "probe_kind": ProbeKind.REWRITE,
            "probe_index": 0,
            "prompt": "The capital of France is",
            "answer": "Lyon",
            "first_token": True,
            "exact": False,
            "preference": None,
            "log_prob_answer": -1.25,
            "log_prob_alternative": None,
            "alternative_exact": None,
            "predicted_token": " Ly",
            **columns,
        }
        for number in range(FACTS)
    ]
    with transaction(engine) as session:
        session.execute(insert(ProbeRow), rows)


@pytest.fixture
def audit_id(engine: Engine) -> str:
    """A base step, an edit step, and a tuning with probes after 1 and after 60 steps."""
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    edit = {"editor": "memit", "paraphrases": 0}
    tune = {**edit, "recipe": "plain-text", "freeze": "none", "seed": 7}
    for position, (kind, inputs, arms) in enumerate(
        [
            (StepKind.BASE, {}, [(Arm.BASE, 0)]),
            (StepKind.EDIT, edit, [(Arm.EDITED, 0)]),
            (StepKind.TUNE, tune, [(Arm.EDITED_TUNED, 1), (Arm.EDITED_TUNED, 60)]),
        ]
    ):
        step_id = measured_step(engine, audit_id, position, kind, inputs)
        for arm, tuning_step in arms:
            add_scores(engine, step_id, arm, tuning_step)
    return audit_id


def measured_step(
    engine: Engine, audit_id: str, position: int, kind: StepKind, inputs: dict[str, Any], source: str = ""
) -> str:
    step_id = add_step(engine, audit_id, position, kind=kind, status=StepStatus.SUCCEEDED, inputs=inputs)
    with transaction(engine) as session:
        session.execute(update(Step).where(col(Step.id) == step_id).values(source_step_id=source or step_id))
    return step_id


def rows(client: TestClient, audit_id: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {**query, **({"cursor": cursor} if cursor else {})}
        page = client.get(f"/audits/{audit_id}/results", params=params).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def csv_rows(client: TestClient, audit_id: str, **query: Any) -> list[dict[str, str]]:
    response = client.get(f"/audits/{audit_id}/results", params=query, headers=CSV)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


def test_there_is_a_row_per_fact_arm_and_mode(client: TestClient, audit_id: str) -> None:
    found = rows(client, audit_id, limit=1000)
    keys = [(row["arm"], row["fact_id"], row["mode"]) for row in found]
    assert keys == [
        (arm, f"fact-{fact}", mode)
        for arm in ("base", "edited", "edited→tuned")
        for fact in range(FACTS)
        for mode in ("first_token", "exact", "contains", "preference")
    ]


def test_row_says_whether_the_answer_is_right_in_its_mode(client: TestClient, audit_id: str) -> None:
    found = rows(client, audit_id, arm="base")[:MODES]
    assert {row["mode"]: row["right"] for row in found} == {
        "first_token": True,
        "exact": False,
        "contains": None,
        "preference": None,
    }


def test_row_of_a_tuning_names_its_trial(client: TestClient, audit_id: str) -> None:
    row = rows(client, audit_id, arm="edited→tuned")[0]
    axes = ("editor", "paraphrases", "recipe", "freeze", "seed", "tuning_step")
    assert [row[axis] for axis in axes] == ["memit", 0, "plain-text", "none", 7, 60]


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 35, 36, 37])
def test_pages_of_any_size_hold_every_row_once(client: TestClient, audit_id: str, limit: int) -> None:
    assert rows(client, audit_id, limit=limit) == rows(client, audit_id, limit=1000)


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_pages_of_one_mode_hold_every_row_once(client: TestClient, audit_id: str, limit: int) -> None:
    found = rows(client, audit_id, limit=limit, mode="exact", every_step=True)
    keys = {(row["arm"], row["tuning_step"], row["fact_id"]) for row in found}
    assert (len(found), len(keys)) == (4 * FACTS, 4 * FACTS)


def test_only_the_final_tuning_step_is_shown_by_default(client: TestClient, audit_id: str) -> None:
    assert {row["tuning_step"] for row in rows(client, audit_id)} == {0, 60}


def test_every_tuning_step_is_shown_on_demand(client: TestClient, audit_id: str) -> None:
    assert {row["tuning_step"] for row in rows(client, audit_id, every_step=True)} == {0, 1, 60}


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"arm": "edited"}, MODES * FACTS),
        ({"mode": "exact"}, 3 * FACTS),
        ({"fact_kind": "control"}, MODES * 3),
        ({"probe_kind": "rewrite"}, 3 * MODES * FACTS),
        ({"probe_kind": "paraphrase"}, 0),
        ({"editor": "memit"}, 2 * MODES * FACTS),
        ({"editor": "ft_l"}, 0),
        ({"recipe": "plain-text"}, MODES * FACTS),
        ({"seed": 7}, MODES * FACTS),
        ({"seed": 8}, 0),
        ({"recipe": "plain-text", "seed": 7, "mode": "exact", "fact_kind": "edit"}, FACTS - 1),
    ],
)
def test_rows_can_be_narrowed(client: TestClient, audit_id: str, query: dict[str, Any], count: int) -> None:
    assert len(rows(client, audit_id, **query)) == count
    assert len(csv_rows(client, audit_id, **query)) == count


def test_reused_step_shows_the_scores_of_the_step_that_it_stands_for(
    client: TestClient, engine: Engine, audit_id: str
) -> None:
    other = add_audit(engine, status=AuditStatus.SUCCEEDED)
    first = measured_step(engine, other, 0, StepKind.BASE, {})
    add_scores(engine, first, Arm.BASE, 0)
    measured_step(engine, other, 1, StepKind.EDIT, {"editor": "a", "paraphrases": 0}, source=first)
    assert [row["editor"] for row in rows(client, other, mode="exact")] == [None] * FACTS + ["a"] * FACTS


def test_csv_holds_the_same_rows(client: TestClient, audit_id: str) -> None:
    as_text = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in rows(client, audit_id, every_step=True)
    ]
    assert csv_rows(client, audit_id, every_step=True) == as_text


def test_csv_in_pieces_is_whole(client: TestClient, audit_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = client.get(f"/audits/{audit_id}/results", headers=CSV).text
    monkeypatch.setattr(results, "ROWS_AT_ONCE", 2)
    assert client.get(f"/audits/{audit_id}/results", headers=CSV).text == whole


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_is_neutralised(start: str) -> None:
    assert neutralised(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"


@pytest.mark.parametrize("value", [-1.25, None, True, "Lyon", "a=b", ""])
def test_harmless_cells_are_left_as_they_are(value: object) -> None:
    assert neutralised(value) is value


def test_formula_in_a_prompt_is_neutralised_in_the_csv(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine, status=AuditStatus.SUCCEEDED)
    step_id = measured_step(engine, audit_id, 0, StepKind.BASE, {})
    add_scores(engine, step_id, Arm.BASE, 0, prompt='=HYPERLINK("http://x")', answer='a,\n"b"')
    row = csv_rows(client, audit_id)[0]
    assert (row["prompt"], row["answer"]) == ('\'=HYPERLINK("http://x")', 'a,\n"b"')


def test_audit_without_scores_has_an_empty_page(client: TestClient, engine: Engine) -> None:
    audit_id = add_audit(engine)
    answer = client.get(f"/audits/{audit_id}/results").json()
    assert answer == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("headers", [{}, CSV])
def test_results_of_an_unknown_audit_are_not_found(client: TestClient, headers: dict[str, str]) -> None:
    response = client.get(f"/audits/{'0' * 32}/results", headers=headers)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/audit-not-found")


@pytest.mark.parametrize("query", [{"limit": 1001}, {"arm": "tuned"}, {"seed": 2**31}, {"cursor": "e30"}])
def test_query_that_makes_no_sense_is_refused(
    client: TestClient, audit_id: str, query: dict[str, Any]
) -> None:
    response = client.get(f"/audits/{audit_id}/results", params=query)
    assert response.json()["errors"][0]["pointer"] == f"/query/{next(iter(query))}"
