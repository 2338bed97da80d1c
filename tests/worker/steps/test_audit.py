"""A whole audit, its steps run in this process on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from services.worker.editing.catalogue import EDITORS
from services.worker.editing.editor import EditFailed
from services.worker.steps import order
from services.worker.steps.context import AuditContext
from services.worker.steps.order import RUN, run_ready_steps, run_step
from shared.artifacts import Artifact, ArtifactStore
from shared.database import create_database_engine, transaction
from shared.leases import LeaseLost, claim_audit
from shared.measurement import Arm
from shared.model_files import HubUnavailable
from shared.reports import Report
from shared.settings import Settings
from shared.states import AuditStatus, Cause, StepKind, StepStatus, Verdict
from shared.tables import Attempt, Audit, Event, ProbeRow, Step, StoredReport
from tests.support.parity_audit import PARITY_GPT2, parity_request, submit_directly

RunAudit = Callable[[dict[str, Any]], AuditContext]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data directory for the tests that only look: what one audit computed, the next takes over."""
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def run_audit(folder: Path) -> RunAudit:
    """Submit a request and run it to its end."""

    def run(body: dict[str, Any]) -> AuditContext:
        context = claimed(folder, body)
        run_ready_steps(context)
        return context

    return run


@pytest.fixture(scope="module")
def finished(run_audit: RunAudit) -> AuditContext:
    """The audit of `parity_request()`, run once."""
    return run_audit(parity_request())


def claimed(folder: Path, body: dict[str, Any]) -> AuditContext:
    """Submit a request and claim it, without running anything."""
    settings = Settings(data_directory=folder, model_roots=(PARITY_GPT2,))
    engine = create_database_engine(settings.resolved_database_url)
    SQLModel.metadata.create_all(engine)
    submit_directly(engine, body)
    lease = claim_audit(engine, "worker", 600)
    assert lease is not None
    return AuditContext(engine, settings, ArtifactStore(settings.resolved_artifacts_url), lease)


def audit_of(context: AuditContext) -> Audit:
    with transaction(context.engine) as session:
        return session.get_one(Audit, context.lease.audit_id)


def report_of(context: AuditContext) -> Report:
    with transaction(context.engine) as session:
        return Report.model_validate(session.get_one(StoredReport, context.lease.audit_id).report)


def steps_of(context: AuditContext, kind: StepKind) -> list[Step]:
    return [step for step in context.steps() if step.kind is kind]


def rows_of(context: AuditContext, step: Step) -> list[ProbeRow]:
    with transaction(context.engine) as session:
        found = session.execute(select(ProbeRow)).scalars()
        return [row for row in found if row.step_id == step.source_step_id]


def test_audit_runs_to_a_report_with_every_configuration_and_a_verdict(finished: AuditContext) -> None:
    context = finished
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    report = report_of(context)
    assert [part.configuration for part in report.configurations] == context.request.configurations()
    assert audit_of(context).verdict is report.verdict
    assert not report.problems


def test_matrix_shares_edits_and_tunings_of_the_base(run_audit: RunAudit) -> None:
    body = parity_request(seeds=[0, 1])
    body["recipes"][0]["freeze"] = ["none"]
    context = run_audit(body)
    edits, recipes, seeds = 3, 1, 2
    assert len(steps_of(context, StepKind.EDIT)) == edits
    assert len(steps_of(context, StepKind.TUNE)) == (edits + 1) * recipes * seeds


def test_every_arm_asks_the_same_probes(finished: AuditContext) -> None:
    context = finished
    asked: dict[Arm, set[tuple[str, str, int, str, str]]] = {}
    for step in context.steps():
        for row in rows_of(context, step):
            probe = (row.fact_id, str(row.probe_kind), row.probe_index, row.prompt, row.answer)
            asked.setdefault(Arm(row.arm), set()).add(probe)
    assert set(asked) == set(Arm)
    assert all(probes == asked[Arm.BASE] for probes in asked.values())


def test_model_is_bit_for_bit_the_base_after_an_audit(finished: AuditContext, tmp_path: Path) -> None:
    used = finished.language_model.model.state_dict()
    fresh = claimed(tmp_path, parity_request()).language_model.model.state_dict()
    assert used.keys() == fresh.keys()
    assert all(torch.equal(used[name], fresh[name]) for name in fresh)


def test_identical_audit_takes_every_result_over_and_reports_the_same(
    finished: AuditContext, run_audit: RunAudit
) -> None:
    first, second = finished, run_audit(parity_request())
    for kind in (StepKind.BASE, StepKind.EDIT, StepKind.TUNE):
        for step in steps_of(second, kind):
            assert step.source_step_id != step.id
    different = {"audit_id", "created_at", "configurations"}
    assert report_of(first).model_dump(exclude=different) == report_of(second).model_dump(exclude=different)
    retention = [part.retention_edits for part in report_of(first).configurations]
    assert retention == [part.retention_edits for part in report_of(second).configurations]


def test_same_audit_computed_twice_gives_the_same_scores(finished: AuditContext, tmp_path: Path) -> None:
    first, second = finished, claimed(tmp_path, parity_request())
    run_ready_steps(second)

    def scores(context: AuditContext) -> list[tuple[float, bool, str]]:
        return [
            (row.log_prob_answer, row.exact, row.predicted_token)
            for step in context.steps()
            for row in rows_of(context, step)
        ]

    assert all(step.source_step_id == step.id for step in second.steps())
    assert scores(first) == scores(second)


def test_recipe_that_diverges_fails_its_steps_and_the_rest_is_reported(run_audit: RunAudit) -> None:
    body = parity_request()
    body["editors"] = body["editors"][1:]
    bursting = {"name": "bursting", "freeze": ["none"], "update": {"kind": "lora", "alpha": 1e38}}
    body["recipes"].append({**body["recipes"][0], **bursting})
    context = run_audit(body)
    report = report_of(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    assert report.verdict is not Verdict.PASS
    assert {problem.cause for problem in report.problems} == {Cause.MODEL}
    assert all(
        "bursting" in problem.title and "diverged" in (problem.error or "") for problem in report.problems
    )
    calm = [part for part in report.configurations if part.configuration.recipe == "english"]
    assert all(metric.denominator for part in calm for metric in part.retention_controls)


def test_editor_that_cannot_apply_an_edit_fails_its_step_and_the_rest_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EditFailed("the loss is nan", edit_index=2)

    monkeypatch.setattr(EDITORS["ft_l"], "edit", refuse)
    context = claimed(tmp_path, parity_request())
    run_ready_steps(context)
    assert audit_of(context).status is AuditStatus.SUCCEEDED
    failed = {step.title: step for step in context.steps() if step.status is StepStatus.FAILED}
    assert list(failed) == ["edit: ft_l, k=0"]
    assert failed["edit: ft_l, k=0"].error == "edits.2: the loss is nan"
    skipped = [step for step in context.steps() if step.status is StepStatus.SKIPPED]
    assert {step.inputs["editor"] for step in skipped} == {"ft_l"}
    assert report_of(context).verdict is not Verdict.PASS


def test_layer_that_the_model_lacks_fails_the_audit_as_the_users_mistake(run_audit: RunAudit) -> None:
    context = run_audit(parity_request(editors=[{"name": "memit", "hyperparameters": {"layers": [7]}}]))
    audit = audit_of(context)
    assert (audit.status, audit.cause) == (AuditStatus.FAILED, Cause.USER)
    assert "blocks 0 to 3" in (audit.error or "")


def test_data_that_changed_between_two_attempts_is_not_trained_on(tmp_path: Path) -> None:
    roots = tmp_path / "records"
    roots.mkdir()
    (roots / "data.txt").write_text("One day.\n\nAnother day.\n")
    body = parity_request(editors=parity_request()["editors"][1:])
    body["recipes"][0]["data"] = {"source": "file:data.txt"}
    first = claimed(tmp_path, body)
    first.settings = first.settings.model_copy(update={"data_roots": (roots,)})
    run_step(first, first.steps()[0])  # the plan
    (roots / "data.txt").write_text("One day.\n\nA third day.\n")
    second = AuditContext(first.engine, first.settings, first.store, first.lease)
    run_ready_steps(second)
    tunings = steps_of(second, StepKind.TUNE)
    assert {(step.status, step.cause) for step in tunings} == {(StepStatus.FAILED, Cause.USER)}
    assert all("changed since the audit began" in (step.error or "") for step in tunings)


def test_step_is_not_failed_by_a_database_that_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_database(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE step", {}, Exception("the connection is gone"))

    context = claimed(tmp_path, parity_request())
    monkeypatch.setitem(RUN, StepKind.PLAN, lose_the_database)
    with pytest.raises(OperationalError):
        run_ready_steps(context)
    assert [step.status for step in context.steps()] == [StepStatus.RUNNING]  # its worker's death frees it


def test_result_whose_artifact_cannot_be_read_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = parity_request(editors=parity_request()["editors"][1:])
    run_ready_steps(claimed(tmp_path, body))
    second = claimed(tmp_path, body)
    read = second.store.get
    refused: list[str] = []

    def refuse_once(artifact: Artifact) -> bytes:
        if not refused:
            refused.append(artifact.name)
            raise PermissionError(artifact.name)
        return read(artifact)

    monkeypatch.setattr(second.store, "get", refuse_once)
    run_ready_steps(second)
    assert audit_of(second).status is AuditStatus.SUCCEEDED
    assert all(step.source_step_id == step.id for step in steps_of(second, StepKind.EDIT))


def test_nothing_is_written_after_the_lease_was_taken_over(tmp_path: Path) -> None:
    context = claimed(tmp_path, parity_request())
    with transaction(context.engine) as session:
        session.execute(update(Attempt).values(lease_token="f" * 32))
        events = len(session.execute(select(Event)).all())
    with pytest.raises(LeaseLost):
        run_ready_steps(context)
    with transaction(context.engine) as session:
        assert len(session.execute(select(Event)).all()) == events
    assert [step.status for step in context.steps()] == [StepStatus.PENDING]


def test_step_planned_by_other_code_is_kept_apart_from_what_that_code_computed(
    finished: AuditContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(folder, parity_request())
    run_step(context, context.steps()[0])
    monkeypatch.setattr(order, "code_version", lambda: "another")
    run_step(context, steps_of(context, StepKind.BASE)[0])
    base, old = steps_of(context, StepKind.BASE)[0], steps_of(finished, StepKind.BASE)[0]
    assert base.source_step_id == base.id
    assert base.key != old.key


def test_tunings_of_the_base_for_editors_of_different_layers_have_titles_of_their_own(
    finished: AuditContext,
) -> None:
    titles = [step.title for step in finished.steps()]
    assert len(set(titles)) == len(titles)


def test_unedited_records_serve_as_controls_when_the_request_names_no_facts(tmp_path: Path) -> None:
    edits = parity_request()["edits"]
    context = claimed(tmp_path, parity_request(edits=edits[:2], controls={"unedited": edits[2:]}))
    for position in range(2):  # the plan, then the base
        run_step(context, context.steps()[position])
    base = steps_of(context, StepKind.BASE)[0]
    assert base.outcome is not None
    assert base.outcome["control_candidates"] == len(edits[2:])
    true_answers = {edit["subject"]: edit["target_true"] for edit in edits[2:]}
    assert base.outcome["controls"]
    assert all(true_answers[fact["subject"]] == fact["answer"] for fact in base.outcome["controls"])


def test_hub_that_is_away_leaves_the_step_to_be_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise HubUnavailable("the hub answered with status 503")

    monkeypatch.setitem(order.RUN, StepKind.PLAN, away)
    context = claimed(tmp_path, parity_request())
    with pytest.raises(HubUnavailable):
        run_ready_steps(context)
    assert [step.status for step in context.steps()] == [StepStatus.RUNNING]
    assert audit_of(context).status is AuditStatus.RUNNING
