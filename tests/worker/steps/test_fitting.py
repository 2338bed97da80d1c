"""Edits that a model cannot be asked for are all named, by the plan, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.worker.editing import token_positions
from services.worker.editing.token_positions import SubjectNotFound
from services.worker.steps import fitting, settling
from services.worker.steps.failures import StepFailed
from services.worker.steps.fitting import check_edits_fit, longest_context
from services.worker.steps.order import work_on_audit
from shared.editors import ConstrainedFineTuningHyperparameters, MemitHyperparameters
from shared.edits import Edit
from shared.states import AuditStatus, Cause, StepKind, StepStatus
from tests.support.parity_audit import parity_request
from tests.worker.editing.cases import EDITS, tiny_language_model
from tests.worker.steps.audits import audit_of, claimed

LONG = "old " * 70


def reason_of(edits: dict[int, Edit], paraphrases: int = 0, context_tokens: int = 0) -> str:
    with pytest.raises(StepFailed) as caught:
        check_edits_fit(tiny_language_model("llama"), edits, paraphrases, context_tokens)
    assert caught.value.cause is Cause.USER
    return caught.value.reason


def names(reason: str) -> list[str]:
    return [part.partition(":")[0] for part in reason.split("; ")]


def test_edits_that_fit_are_let_through() -> None:
    check_edits_fit(tiny_language_model("llama"), dict(enumerate(EDITS)), 0, 30)


def test_every_edit_that_is_too_long_is_named_by_its_index() -> None:
    long = [edit.model_copy(update={"prompt": LONG + edit.prompt}) for edit in EDITS]
    reason = reason_of({2: EDITS[0], 5: long[1], 9: long[3]})
    assert names(reason) == ["edits.5", "edits.9"]
    assert reason.endswith("tokens, the model reads 64")


def test_what_is_asked_besides_is_named_by_its_field() -> None:
    edit = EDITS[0].model_copy(
        update={
            "paraphrases": ("Ada Lovelace was in", f"{LONG}Ada Lovelace was in"),
            "neighborhood": ("Grace lives in", f"{LONG}Grace lives in"),
        }
    )
    assert names(reason_of({3: edit})) == ["edits.3.paraphrases.1", "edits.3.neighborhood.1"]


def test_paraphrases_that_are_made_edits_of_need_room_for_a_context() -> None:
    edit = EDITS[0].model_copy(
        update={"prompt": "old " * 30 + "{}", "paraphrases": ("old " * 40 + "Ada Lovelace was in",)}
    )
    assert names(reason_of({3: edit}, paraphrases=1, context_tokens=20)) == ["edits.3.paraphrases.0"]
    assert "tokens after 20 of a context" in reason_of({3: edit}, paraphrases=1, context_tokens=20)
    check_edits_fit(tiny_language_model("llama"), {3: edit}, 1, 0)


def test_of_many_all_are_named_and_the_first_explained() -> None:
    long = EDITS[0].model_copy(update={"prompt": LONG + "{}"})
    reason = reason_of(dict.fromkeys(range(100, 115), long))
    assert reason.count("prompt and target take") == 10
    assert reason.endswith("and likewise edits.110, edits.111, edits.112, edits.113, edits.114")


def test_subject_that_cannot_be_told_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(tokenizer: object, template: str, subject: str, index: int) -> object:
        if subject == EDITS[1].subject:
            raise SubjectNotFound(index, template)
        return token_positions.locate_subject(tokenizer, template, subject, index)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "locate_subject", locate)
    reason = reason_of({4: EDITS[0], 6: EDITS[1]})
    assert reason == "edits.6: the subject's last token cannot be told in 'Home town of Alan Turing'"


def test_only_editors_that_write_contexts_need_room_for_them() -> None:
    assert longest_context(MemitHyperparameters(context_length=10)) == 11
    assert longest_context(MemitHyperparameters(context_count=0)) == 0
    assert longest_context(ConstrainedFineTuningHyperparameters()) == 0


def test_audit_with_edits_that_do_not_fit_fails_in_its_plan_before_facts_are_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "trace_facts", lambda *_, **__: pytest.fail("facts were traced"))
    body = parity_request()
    body["editors"][0]["hyperparameters"]["layers"] = "auto"
    for index in (1, 3):
        body["edits"][index]["prompt"] = "old " * 100 + body["edits"][index]["prompt"]
    context = claimed(tmp_path, body)
    work_on_audit(context)
    [plan] = context.steps()
    assert (plan.kind, plan.status, plan.cause) == (StepKind.PLAN, StepStatus.FAILED, Cause.USER)
    assert names(plan.error or "") == ["edits.1", "edits.3"]
    assert audit_of(context).status is AuditStatus.FAILED
