"""A whole audit, its steps run in this process on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update

from services.worker.editing.catalogue import EDITORS
from services.worker.editing.editor import EditFailed
from services.worker.steps import order
from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from shared.database import transaction
from shared.leases import LeaseLost
from shared.measurement import TUNED, Arm
from shared.states import AuditStatus, Cause, StepKind, StepStatus, Verdict
from shared.tables import Attempt, Event
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import audit_of, claimed, report_of, rows_of, run_steps, scores_of, steps_of

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
        work_on_audit(context)
        return context

    return run


@pytest.fixture(scope="module")
def finished(run_audit: RunAudit) -> AuditContext:
    """The audit of `parity_request()`, run once."""
    return run_audit(parity_request())


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


def test_four_editors_by_four_recipes_by_three_seeds_are_four_edits_and_sixty_tunings(tmp_path: Path) -> None:
    [recipe] = parity_request()["recipes"]
    names = {"memit": {"mom2_tokens": 200}, "rome": {"mom2_tokens": 200}, "ft": {}, "ft_l": {}}
    editors = [{"name": name, "hyperparameters": {**chosen, "layers": [1]}} for name, chosen in names.items()]
    rates = [1e-4, 2e-4, 5e-4, 1e-3]
    recipes = [
        {**recipe, "name": f"rate-{rate}", "learning_rate": rate, "freeze": ["none"]} for rate in rates
    ]
    context = claimed(tmp_path, parity_request(editors=editors, recipes=recipes, seeds=[0, 1, 2]))
    run_steps(context, 1)  # the plan
    assert len({step.key for step in steps_of(context, StepKind.EDIT)}) == 4
    assert len({step.key for step in steps_of(context, StepKind.TUNE)}) == 60  # the base is tuned too
    assert len(steps_of(context, StepKind.TUNE)) == 60


def test_edits_that_did_not_take_are_told_with_what_is_answered_instead(finished: AuditContext) -> None:
    edits = steps_of(finished, StepKind.EDIT)
    told = report_of(finished).editing
    assert [(part.editor, part.paraphrases) for part in told] == [("memit", 0), ("memit", 1), ("ft_l", 0)]
    for step, part in zip(edits, told, strict=True):
        own_prompts = [
            row for row in rows_of(finished, step) if (row.fact_kind, row.probe_kind) == ("edit", "rewrite")
        ]
        missed = [index for index, row in enumerate(own_prompts) if not row.exact]
        assert [edit.index for edit in part.not_taken] == missed
        for edit in part.not_taken:
            row = own_prompts[edit.index]
            assert (edit.prompt, edit.target_new) == (row.prompt, row.answer)
            assert edit.answer != edit.target_new
            assert edit.answer.startswith(row.predicted_token.strip())
    few_steps = told[2]  # of FT-L, within a narrow bound
    assert len(few_steps.not_taken) == few_steps.edits == 4
    assert any("4 of 4 edits did not take" in warning for warning in report_of(finished).warnings)


def test_every_arm_asks_the_same_probes(finished: AuditContext) -> None:
    context = finished
    asked: dict[Arm, set[tuple[str, str, int, str, str]]] = {}
    for step in context.steps():
        for row in rows_of(context, step):
            probe = (row.fact_id, str(row.probe_kind), row.probe_index, row.prompt, row.answer)
            asked.setdefault(Arm(row.arm), set()).add(probe)
    assert set(asked) == set(TUNED.arms)
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
    work_on_audit(second)

    assert all(step.source_step_id == step.id for step in second.steps())
    assert scores_of(first) == scores_of(second)


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
    work_on_audit(context)
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
    run_steps(first, 1)  # the plan
    (roots / "data.txt").write_text("One day.\n\nA third day.\n")
    second = AuditContext(first.engine, first.settings, first.store, first.lease)
    work_on_audit(second)
    tunings = steps_of(second, StepKind.TUNE)
    assert {(step.status, step.cause) for step in tunings} == {(StepStatus.FAILED, Cause.USER)}
    assert all("changed since the audit began" in (step.error or "") for step in tunings)


def test_nothing_is_written_after_the_lease_was_taken_over(tmp_path: Path) -> None:
    context = claimed(tmp_path, parity_request())
    with transaction(context.engine) as session:
        session.execute(update(Attempt).values(lease_token="f" * 32))
        events = len(session.execute(select(Event)).all())
    with pytest.raises(LeaseLost):
        work_on_audit(context)
    with transaction(context.engine) as session:
        assert len(session.execute(select(Event)).all()) == events
    assert [step.status for step in context.steps()] == [StepStatus.RUNNING]


def test_step_planned_by_other_code_is_kept_apart_from_what_that_code_computed(
    finished: AuditContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = claimed(folder, parity_request())
    run_steps(context, 1)
    monkeypatch.setattr(order, "code_version", lambda: "another")
    run_steps(context, 1)
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
    run_steps(context, 2)  # the plan, then the base
    base = steps_of(context, StepKind.BASE)[0]
    assert base.outcome is not None
    assert base.outcome["control_candidates"] == len(edits[2:])
    true_answers = {edit["subject"]: edit["target_true"] for edit in edits[2:]}
    assert base.outcome["controls"]
    assert all(true_answers[fact["subject"]] == fact["answer"] for fact in base.outcome["controls"])
