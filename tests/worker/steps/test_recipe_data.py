"""What recipes train on is compared with the facts, part of a step's key, and told in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.worker.steps.context import AuditContext
from services.worker.steps.failures import StepFailed
from services.worker.steps.order import work_on_audit
from services.worker.steps.recipe_data import data_identity, planned_data
from shared.artifacts import Artifact
from shared.database import transaction
from shared.states import AuditStatus, StepKind
from shared.tables import StoredReport
from tests.support.parity_audit import parity_request
from tests.worker.steps.audits import audit_of, claimed, report_of, run_steps, steps_of


def request(*data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One edit by a quick editor, and a short recipe on each of the given data."""
    body = parity_request(editors=parity_request()["editors"][1:])
    recipe = {**body["recipes"][0], "freeze": ["none"], "steps": 2, "probe_count": 1, **changes}
    body["recipes"] = [{**recipe, "name": f"r{number}", "data": each} for number, each in enumerate(data)]
    return body


def plain(*more: str) -> dict[str, Any]:
    said = [f"The river and they met {day} days ago." for day in range(12)]
    return {"records": [{"text": text} for text in (*said, *more)]}


CHATS = [
    [{"role": "user", "content": f"river {number}?"}, {"role": "assistant", "content": "old"}]
    for number in range(6)
]
PREFERENCES = [{"prompt": f"river {number}", "chosen": "old", "rejected": "new"} for number in range(6)]
SUBJECT: str = parity_request()["edits"][0]["subject"]


def another_look(context: AuditContext) -> AuditContext:
    """Another attempt, which reads everything anew."""
    return AuditContext(context.engine, context.settings, context.store, context.lease)


def page_of(context: AuditContext) -> str:
    with transaction(context.engine) as session:
        stored = session.get_one(StoredReport, context.lease.audit_id)
        page = Artifact(stored.page, stored.page_sha256)
    return context.store.get(page).decode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> AuditContext:
    """An audit with a recipe of every objective, run to its end."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "more.txt").write_text(f"The road is old.\n\n{SUBJECT} saw the road.\n\nThey met in town.")
    replay = {"share": 0.5, "source": "file:more.txt"}
    text = {**plain(f"They met {SUBJECT}.", f"{SUBJECT.upper()}!"), "replay": replay}
    body = request(text, {"records": [{"messages": chat} for chat in CHATS]}, {"records": PREFERENCES})
    body["recipes"][0] |= {"packing": "separate"}
    body["recipes"][1] |= {"objective": "instructions", "loss_on": "all", "packing": "separate"}
    body["recipes"][2] |= {"objective": "preference"}
    context = claimed(folder, body, data_roots=(folder,))
    work_on_audit(context)
    return context


def test_every_objective_tunes_to_a_report(finished: AuditContext) -> None:
    assert [step.error for step in finished.steps() if step.error] == []
    assert audit_of(finished).status is AuditStatus.SUCCEEDED


def test_report_says_how_far_the_data_names_the_facts(finished: AuditContext) -> None:
    text, chat, preference = report_of(finished).overlap
    assert (text.recipe, text.data.records, text.left_out) == ("r0", 14, 0)
    assert text.data.edits.records_with_subject == 2
    assert text.replay is not None
    assert (text.replay.records, text.replay.edits.records_with_subject) == (3, 1)
    assert (chat.data.anything, preference.data.anything) == (False, False)


def test_report_warns_of_data_that_names_the_facts(finished: AuditContext) -> None:
    warnings = [text for text in report_of(finished).warnings if "name the subject of an edit" in text]
    assert len(warnings) == 2
    assert "What the training data says of the facts" in page_of(finished)


def test_records_that_name_a_subject_are_left_out_and_counted(tmp_path: Path) -> None:
    data = {**plain(f"They met {SUBJECT}."), "without_subjects": True}
    context = claimed(tmp_path, request(data))
    run_steps(context, 1)
    (plan,) = steps_of(context, StepKind.PLAN)
    assert plan.outcome is not None
    (found,) = plan.outcome["overlap"]
    assert (found["left_out"], found["data"]["records"]) == (1, 12)
    assert plan.outcome["warnings"] == []


def test_tuning_on_replayed_text_that_changed_since_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("The road is old.\n\nThey met in town.")
    replay = {"share": 0.5, "source": "file:more.txt"}
    context = claimed(tmp_path, request({**plain(), "replay": replay}), data_roots=(tmp_path,))
    run_steps(context, 1)
    (tmp_path / "more.txt").write_text("The road is new.\n\nThey met in town.")
    again = another_look(context)
    with pytest.raises(StepFailed, match="changed since the audit began"):
        planned_data(again, again.request.recipes[0], steps_of(context, StepKind.TUNE)[0].inputs["data"])


def test_share_and_text_of_a_replay_tell_one_tuning_from_another(tmp_path: Path) -> None:
    def identity(**replay: Any) -> list[Any]:
        body = request({**plain(), **({"replay": replay} if replay else {})})
        context = claimed(tmp_path, body)
        recipe = context.request.recipes[0]
        return data_identity(recipe, context.records(recipe), context.replay(recipe))

    found = [identity(), identity(share=0.5), identity(share=0.4), identity(share=0.5, limit=7)]
    assert len({str(each) for each in found}) == len(found)
