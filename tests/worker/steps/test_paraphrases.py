"""Paraphrases that are written in a step of their own, for edits to be made under."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.worker.editing import augmentation
from services.worker.steps import edit as edit_step
from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from services.worker.steps.paraphrases import edits_to_make
from shared.artifacts import Artifact
from shared.measurement import ProbeKind
from shared.paraphrases import LEAD_INS
from shared.states import Cause, StepKind, StepStatus
from shared.tables import Step
from tests.support.chat_server import ChatServer, running_chat_server
from tests.support.hub_server import Repository, running_hub
from tests.support.parity_audit import parity_request
from tests.worker.language_models.test_text_writer import save_seq2seq
from tests.worker.steps.audits import claimed, rows_of, run_steps, steps_of

PREPARED = 3  # steps: the plan, the base, the preparation
FT_L = {"name": "ft_l", "hyperparameters": {"layers": [1], "num_steps": 2}}


def request(source: str, counts: list[int], **changes: Any) -> dict[str, Any]:
    """A short audit with one editor."""
    body = parity_request(editors=[{**FT_L, "paraphrases": counts, "paraphrase_source": source}], **changes)
    body["recipes"][0] |= {"freeze": ["none"], "steps": 1, "probe_count": 1}
    return body


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running_chat_server() as server:
        yield server


def with_endpoint(context: AuditContext, server: ChatServer, **changes: Any) -> AuditContext:
    configured = {"paraphrase_url": server.url, "paraphrase_model": "writer-1", "paraphrase_retries": 0}
    context.settings = context.settings.model_copy(update={**configured, **changes})
    return context


def written(context: AuditContext, step: Step) -> list[list[str]]:
    """What a prepare step stored."""
    assert step.artifact is not None
    assert step.artifact_sha256 is not None
    content = json.loads(context.store.get(Artifact(step.artifact, step.artifact_sha256)))
    return list(content["paraphrases"])


def rephrase(asked: str) -> str:
    """Some paraphrases of the prompt in an instruction, and some that are none."""
    subject = re.findall(r'"(.+?)"', asked)[-1]
    good = [f"{number}. Phrasing number {number} of {subject} is" for number in range(1, 4)]
    return "\n".join(["Here you are:", *good])


def test_paraphrases_are_written_once_for_all_counts_of_an_editor(tmp_path: Path) -> None:
    context = claimed(tmp_path, request("templates", [0, 1, 2]))
    work_on_audit(context)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert prepare.status is StepStatus.SUCCEEDED
    assert all(len(of_edit) == 2 for of_edit in written(context, prepare))
    assert {step.status for step in context.steps()} == {StepStatus.SUCCEEDED}
    needing = [step for step in steps_of(context, StepKind.EDIT) if prepare.id in step.needs]
    assert [step.inputs["paraphrases"] for step in needing] == [1, 2]


def test_edits_are_made_under_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []

    def augment(edits: Any, count: int) -> Any:
        augmented = augmentation.augment_with_paraphrases(edits, count)
        made.append([edit.full_prompt for edit in augmented[len(edits) :]])
        return augmented

    monkeypatch.setattr(edit_step, "augment_with_paraphrases", augment)
    context = claimed(tmp_path, request("templates", [1]))
    run_steps(context, PREPARED + 1)
    assert made == [[LEAD_INS[0].format(edit.full_prompt) for edit in context.request.edits]]


def test_the_edits_own_paraphrases_all_serve_to_ask_the_model(tmp_path: Path) -> None:
    context = claimed(tmp_path, request("templates", [2]))
    run_steps(context, PREPARED + 1)
    (edit,) = steps_of(context, StepKind.EDIT)
    asked = [row.prompt for row in rows_of(context, edit) if row.probe_kind == ProbeKind.PARAPHRASE]
    assert asked == [text for edit in context.request.edits for text in edit.paraphrases]


def test_own_paraphrases_need_no_step(tmp_path: Path) -> None:
    context = claimed(tmp_path, request("own", [0, 1]))
    run_steps(context, 1)
    assert steps_of(context, StepKind.PREPARE) == []
    for step in steps_of(context, StepKind.EDIT):
        assert edits_to_make(context, step) == list(context.request.edits)


def test_endpoint_of_the_operator_writes_paraphrases(tmp_path: Path, server: ChatServer) -> None:
    server.reply = rephrase
    context = with_endpoint(claimed(tmp_path, request("endpoint", [2])), server)
    run_steps(context, PREPARED)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    subjects = [edit.subject for edit in context.request.edits]
    assert written(context, prepare) == [
        [f"Phrasing number 1 of {subject} is", f"Phrasing number 2 of {subject} is"] for subject in subjects
    ]
    assert len(server.requests) == len(subjects)
    assert {sent["model"] for _, _, sent in server.requests} == {"writer-1"}


def test_endpoint_that_is_away_puts_the_step_off(tmp_path: Path, server: ChatServer) -> None:
    server.will_answer(503)
    context = with_endpoint(claimed(tmp_path, request("endpoint", [2])), server)
    work_on_audit(context)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert prepare.status is StepStatus.PENDING
    assert prepare.deaths == 0


def test_endpoint_that_refuses_fails_the_step_and_the_edits_that_need_it(
    tmp_path: Path, server: ChatServer
) -> None:
    server.will_answer(401)
    context = with_endpoint(claimed(tmp_path, request("endpoint", [0, 2])), server)
    work_on_audit(context)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert (prepare.status, prepare.cause) == (StepStatus.FAILED, Cause.INFRASTRUCTURE)
    assert prepare.error == "the paraphrase endpoint refuses with status 401"
    plain, augmented = steps_of(context, StepKind.EDIT)
    assert (plain.status, augmented.status) == (StepStatus.SUCCEEDED, StepStatus.SKIPPED)


def test_endpoint_that_gives_the_answer_away_leaves_too_few_and_the_edits_are_named(
    tmp_path: Path, server: ChatServer
) -> None:
    edits = parity_request()["edits"]
    leaking = edits[1]["subject"]
    server.reply = lambda asked: (
        rephrase(asked).replace("is", edits[1]["target_new"]) if leaking in asked else rephrase(asked)
    )
    context = with_endpoint(claimed(tmp_path, request("endpoint", [2])), server)
    run_steps(context, PREPARED)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert (prepare.status, prepare.cause) == (StepStatus.FAILED, Cause.MODEL)
    assert prepare.error == "the model writer-1 gave too few usable paraphrases (edits.1: 0 of 2)"


def test_endpoint_that_is_not_there_any_more_fails_the_audit(tmp_path: Path) -> None:
    context = claimed(tmp_path, request("endpoint", [2]))
    work_on_audit(context)
    (plan,) = steps_of(context, StepKind.PLAN)
    assert (plan.status, plan.cause) == (StepStatus.FAILED, Cause.USER)
    assert plan.error == "no endpoint that writes paraphrases is configured here"


@pytest.fixture
def rewriter(tmp_path: Path) -> Path:
    """A sequence-to-sequence model that writes nonsense, under a model root."""
    folder = tmp_path / "models" / "rewriter"
    folder.mkdir(parents=True)
    save_seq2seq(folder)
    return folder


def with_models(context: AuditContext, root: Path) -> AuditContext:
    context.settings = context.settings.model_copy(
        update={"model_roots": (*context.settings.model_roots, root)}
    )
    return context


def test_model_writes_what_is_then_sifted(tmp_path: Path, rewriter: Path) -> None:
    context = with_models(claimed(tmp_path, request(f"model:local:{rewriter}", [2])), tmp_path / "models")
    run_steps(context, PREPARED)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert (prepare.status, prepare.cause) == (StepStatus.FAILED, Cause.MODEL)
    assert str(prepare.error).startswith(
        f"model:local:{rewriter} gave too few usable paraphrases (edits.0: 0 of 2; edits.1: 0 of 2;"
    )


def test_model_that_changed_since_the_plan_writes_nothing(tmp_path: Path, rewriter: Path) -> None:
    context = with_models(claimed(tmp_path, request(f"model:local:{rewriter}", [2])), tmp_path / "models")
    run_steps(context, 1)
    config = json.loads((rewriter / "config.json").read_text())
    (rewriter / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.2}))
    run_steps(context, PREPARED - 1)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert (prepare.status, prepare.cause) == (StepStatus.FAILED, Cause.USER)
    assert str(prepare.error).endswith("changed since the audit began")


def test_what_was_written_is_reused_by_an_audit_of_the_same_edits(tmp_path: Path, server: ChatServer) -> None:
    server.reply = rephrase
    for _ in range(2):
        context = with_endpoint(claimed(tmp_path, request("endpoint", [2])), server)
        run_steps(context, PREPARED)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert prepare.source_step_id != prepare.id
    assert len(server.requests) == len(context.request.edits)


def test_model_of_a_hub_is_fetched_at_its_commit_when_it_is_to_write(tmp_path: Path, rewriter: Path) -> None:
    files = {path.name: path.read_bytes() for path in rewriter.iterdir()}
    with running_hub() as hub:
        hub.repositories["org/rewriter"] = Repository()
        commit = hub.repositories["org/rewriter"].push(files)
        hub.repositories["org/rewriter"].push({"config.json": b"{}"})  # the branch goes on
        context = claimed(tmp_path, request(f"model:hf:org/rewriter@{commit}", [2]))
        context.settings = context.settings.model_copy(update={"hub_endpoint": hub.url})
        run_steps(context, 1)
        assert hub.requests == []  # the plan needs nothing of it
        run_steps(context, PREPARED - 1)
    (prepare,) = steps_of(context, StepKind.PREPARE)
    assert "gave too few usable paraphrases" in str(prepare.error)
