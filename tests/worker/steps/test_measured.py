"""What an audit asks at its arms, and in which modes, is what its request says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.probing import variants
from services.worker.steps import measured
from services.worker.steps.context import AuditContext
from services.worker.steps.order import work_on_audit
from shared.measurement import Arm, FactKind, Mode, ProbeKind
from shared.states import StepKind
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import claimed, report_of, rows_of, run_steps, steps_of


def small_request(**probing: Any) -> dict[str, Any]:
    """One editor and one tuning; the first edit has something of every kind to ask."""
    body = parity_request()
    body["editors"] = body["editors"][1:]
    body["recipes"][0] |= {"freeze": ["none"], "sequence_length": 16}
    edit = body["edits"][0]
    edit["attribute"] = ["Somebody else says"]
    edit["portability"] = [{"question": "And what follows is", "answer": edit["target_new"]}]
    edit["same_subject"] = [{"prompt": f"{edit['subject']} met", "answer": edit["target_true"]}]
    edit["negated"] = [f"{edit['subject']} never says"]
    return {**body, "probing": probing}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """An audit that asks everything there is; its model has little room for distractors."""
    kinds = [kind.value for kind in ProbeKind]
    context = claimed(
        tmp_path_factory.mktemp("audit"), small_request(kinds=kinds, contains_tokens=4, fluency=True)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(variants, "DISTRACTORS", ("They met.", "It is so."))
        work_on_audit(context)
    return context


def test_every_kind_is_probed_and_reported(finished: AuditContext) -> None:
    (edit,) = steps_of(finished, StepKind.EDIT)
    of_edits = {row.probe_kind for row in rows_of(finished, edit) if row.fact_kind == FactKind.EDIT}
    assert of_edits == set(ProbeKind) - {ProbeKind.NEIGHBORHOOD}  # of which the request has none
    (part,) = report_of(finished).configurations
    assert {share.probe_kind for share in part.shares if share.fact_kind is FactKind.EDIT} == of_edits


def test_control_facts_are_distracted_as_edits_are(finished: AuditContext) -> None:
    for step in (*steps_of(finished, StepKind.BASE), *steps_of(finished, StepKind.EDIT)):
        rows = rows_of(finished, step)
        for kind in FactKind:
            own = {row.prompt for row in rows if (row.fact_kind, row.probe_kind) == (kind, "rewrite")}
            distracted = [
                row.prompt for row in rows if (row.fact_kind, row.probe_kind) == (kind, "distracted")
            ]
            assert len(distracted) == 2 * len(own) > 0
            assert all(any(prompt.endswith(f". {ending}") for ending in own) for prompt in distracted)


def test_contains_is_scored_of_own_prompts_at_the_ends_of_the_arms(finished: AuditContext) -> None:
    for step in finished.steps():
        rows = rows_of(finished, step)
        last = max((row.tuning_step for row in rows), default=0)
        for row in rows:
            at_an_end = row.probe_kind == ProbeKind.REWRITE and row.tuning_step == last
            assert (row.contains is not None) == at_an_end
    (part,) = report_of(finished).configurations
    by_mode = {metric.mode: metric for metric in part.retention_controls}
    assert by_mode[Mode.CONTAINS].denominator > 0


def test_tokens_of_answers_are_stored_with_those_that_are_right(finished: AuditContext) -> None:
    for step in finished.steps():
        for row in rows_of(finished, step):
            assert row.answer_tokens is not None
            assert row.answer_hits is not None
            assert row.exact == (row.answer_hits == row.answer_tokens)
            assert len(str(row.predictions).split()) == row.answer_tokens
            assert str(row.predicted_answer).startswith(row.predicted_token)


def test_protocols_and_fluency_are_reported_of_every_arm(finished: AuditContext) -> None:
    (part,) = report_of(finished).configurations
    assert {metric.arm for metric in part.protocols} == {Arm.EDITED, Arm.EDITED_TUNED}
    assert {"ES", "PS", "Efficacy", "Edit success", "Portability", "Locality"} <= {
        metric.name for metric in part.protocols
    }
    es = next(metric for metric in part.protocols if (metric.name, metric.arm) == ("ES", Arm.EDITED))
    assert es.denominator == 4
    assert {metric.arm for metric in part.fluency} == {
        Arm.BASE,
        Arm.BASE_TUNED,
        Arm.EDITED,
        Arm.EDITED_TUNED,
    }


def test_distracted_prompts_that_do_not_fit_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    context = claimed(tmp_path, small_request(kinds=["rewrite", "distracted"]))
    run_steps(context, 1)
    (plan,) = steps_of(context, StepKind.PLAN)
    assert plan.error is not None
    assert "edits.0: distracted prompt and answer take" in plan.error


def test_what_is_not_asked_for_is_not_measured(tmp_path: Path) -> None:
    context = claimed(tmp_path, small_request(kinds=["rewrite"], contains_tokens=None))
    work_on_audit(context)
    rows = [row for step in context.steps() for row in rows_of(context, step)]
    assert {row.probe_kind for row in rows} == {ProbeKind.REWRITE}
    assert {row.contains for row in rows} == {None}
    (part,) = report_of(context).configurations
    assert part.fluency == []


@pytest.mark.parametrize("fluency", [True, False])
def test_other_plain_texts_make_other_steps_only_where_they_are_read(
    fluency: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(folder: Path) -> set[str]:
        folder.mkdir()
        context = claimed(folder, small_request(kinds=["rewrite"], fluency=fluency))
        run_steps(context, 1)
        return {step.key for step in context.steps() if step.kind is not StepKind.PLAN}

    before = planned(tmp_path / "before")
    assert planned(tmp_path / "again") == before
    monkeypatch.setattr(measured, "plain_texts", lambda: ["Another text."])
    assert planned(tmp_path / "other").isdisjoint(before) == fluency
