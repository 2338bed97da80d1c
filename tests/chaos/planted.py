"""One way to break each rule, told at the end of a right history."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.stories import (
    Story,
    begin_audit,
    cancel,
    claim,
    publish,
    put_report,
    reap,
    reuse_all,
    submit,
    succeed,
    take,
)

Plant = Callable[[Story], None]


def lose_an_accepted_audit(story: Story) -> None:
    story.add("client", act="submit.accepted", audit="e", key="e", submitter="ada", request="small")


def leave_an_audit_queued(story: Story) -> None:
    submit(story, "e")


def make_two_audits_of_one_key(story: Story) -> None:
    begin_audit(story, "e", key="key of d")
    cancel(story, "e")


def answer_one_key_with_two_audits(story: Story) -> None:
    story.add("client", act="submit.accepted", audit="a", key="key of d", submitter="ada", request="small")


def cancel_what_has_succeeded(story: Story) -> None:
    story.begin()
    story.put("audit", "a", status="cancelled")


def begin_an_audit_as_running(story: Story) -> None:
    begin_audit(story, "e", status="running")
    story.put("audit", "e", status="cancelling")
    cancel(story, "e")


def delete_an_audit(story: Story) -> None:
    submit(story, "e")
    cancel(story, "e")
    story.remove("audit", "e")


def skip_a_running_step(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("step", "plan of e", status="skipped")
    cancel(story, "e")


def delete_a_step(story: Story) -> None:
    submit(story, "e")
    story.remove("step", "plan of e")
    cancel(story, "e")


def end_without_a_time(story: Story) -> None:
    submit(story, "e")
    story.put("step", "plan of e", status="cancelled")
    story.put("audit", "e", status="cancelled")


def have_a_time_before_the_end(story: Story) -> None:
    submit(story, "e")
    story.put("audit", "e", finished_at=1.0)
    cancel(story, "e")


def publish_as_a_zombie(story: Story) -> None:
    """The reaper ended its attempt; another has the step; its transaction found no attempt to hold."""
    submit(story, "e")
    reap(story, claim(story, "e", 1, "plan of e"), "e", "plan of e")
    claim(story, "e", 2, "plan of e", worker="w2")
    story.begin()
    story.put("step", "plan of e", status="succeeded", source_step_id="plan of e")
    cancel(story, "e")


def write_a_colleagues_step(story: Story) -> None:
    """Under an attempt that is open and of the same audit, but at another step."""
    submit(story, "e")
    story.put("step", "edit of e", audit_id="e", key="of its own")
    claim(story, "e", 1, "plan of e")
    colleague = claim(story, "e", 2, "edit of e", worker="w2")
    story.begin()
    story.put("attempt", colleague)
    story.put("step", "plan of e", status="failed", cause="model", error="it broke")
    cancel(story, "e")


def write_another_audits_step(story: Story) -> None:
    submit(story, "e")
    submit(story, "f")
    claim(story, "e", 1, "plan of e")
    other = claim(story, "f", 1, "plan of f")
    story.begin()
    story.put("attempt", other)
    story.put("step", "plan of e", progress=0.5)
    cancel(story, "e")
    cancel(story, "f")


def write_before_the_fence(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("step", "plan of e", checkpoint="half")
    story.put("attempt", token)
    cancel(story, "e")


def score_what_nobody_runs(story: Story) -> None:
    submit(story, "e")
    story.put("probe_row", "stray", step_id="plan of e")
    cancel(story, "e")


def report_without_an_attempt(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e")
    story.begin()
    put_report(story, "e")
    cancel(story, "e")


def report_twice(story: Story) -> None:
    submit(story, "e")
    token = reuse_all(story, "e")
    story.begin()
    story.put("attempt", token)
    put_report(story, "e")
    story.remove("report", "report of e")
    publish(story, token, "e")


def succeed_without_a_report(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("attempt", token)
    story.put("step", "plan of e", status="succeeded", source_step_id="plan of e")
    story.put("audit", "e", status="succeeded", finished_at=1.0)
    story.add("result", of="report", name="small", audit="e", sha256="r", artifact=None)


def tell_of_a_step_after_the_end(story: Story) -> None:
    story.begin()
    story.event("b", "step.started")


def leave_an_audit_that_has_ended(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    cancel(story, "e")
    story.begin()
    story.put("attempt", token, ended_at=1.0)


def begin_a_step_after_the_end(story: Story) -> None:
    submit(story, "e")
    cancel(story, "e")
    story.begin()
    story.put("step", "plan of e", ready_at=1.0)


def compute_again(story: Story) -> None:
    submit(story, "e")
    token = reuse_all(story, "e", computed=True)
    publish(story, token, "e")


def undo_a_success(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    succeed(story, token, "plan of e")
    story.begin()
    story.put("attempt", token)
    story.put("step", "plan of e", status="pending", source_step_id=None)
    cancel(story, "e")


def run_one_key_twice(story: Story) -> None:
    for audit in ("e", "f"):
        begin_audit(story, audit, step_key="shared")
        claim(story, audit, 1, f"plan of {audit}")
    cancel(story, "e")
    cancel(story, "f")


def take_a_running_step_over(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    take(story, token, "plan of e")
    claim(story, "e", 2, "plan of e")
    cancel(story, "e")


def run_two_steps_at_once(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    story.put("step", "edit of e", audit_id="e", key="of its own")
    take(story, token, "edit of e")
    cancel(story, "e")


def leave_an_event_out(story: Story) -> None:
    submit(story, "e")
    story.put("event", "e/3", audit_id="e", sequence=3, kind="audit.cancelled")
    cancel(story, "e")


def change_an_event(story: Story) -> None:
    submit(story, "e")
    story.put("event", "e/1", kind="audit.resubmitted")
    cancel(story, "e")


def leave_an_attempt_out(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 2, "plan of e")
    cancel(story, "e")


def reopen_an_attempt(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("attempt", token, ended_at=1.0)
    story.put("attempt", token, ended_at=None)
    cancel(story, "e")


def tell_nobody(story: Story) -> None:
    submit(story, "e", told=False)
    story.put("step", "plan of e", status="cancelled")
    story.put("audit", "e", status="running")
    story.put("audit", "e", status="failed", cause="timeout", error="nobody came", finished_at=1.0)


def cancel_late(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e", worker="w9")
    cancel(story, "e", after=11)


def cancel_late_though_another_was_hit(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e", worker="w9")
    story.add("fault", kind="kill_worker", fault=9, act="began", target=None, workers=["w8"])
    cancel(story, "e", after=11)


def cancel_very_late_after_a_fault(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e", worker="w9")
    story.add("fault", kind="kill_worker", fault=9, act="began", target=None, workers=["w9"])
    cancel(story, "e", after=31)


def give_another_result(story: Story) -> None:
    story.add("result", of="report", name="small", audit="a", sha256="x", artifact=None)


def give_another_artifact(story: Story) -> None:
    story.add("result", of="step", name="the edit", step="edit of a", audit="a", sha256="e", artifact="other")


def ask_for_what_has_no_reference(story: Story) -> None:
    story.add("result", of="report", name="unheard of", audit="a", sha256="r", artifact=None)


def give_no_result_of_a_step(story: Story) -> None:
    story.records = [record for record in story.records if record.get("step") != "edit of a"]


def give_no_report(story: Story) -> None:
    submit(story, "e")
    publish(story, reuse_all(story, "e"), "e")
    story.records.pop()


def leave_a_step_behind(story: Story) -> None:
    submit(story, "e")
    story.begin()
    story.put("audit", "e", status="cancelled", finished_at=1.0)


def die_too_often(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("step", "plan of e", status="pending", lease_token=None, deaths=3)
    story.put("step", "plan of e", status="cancelled")
    cancel(story, "e")


def fail_a_step_without_a_cause(story: Story) -> None:
    submit(story, "e")
    token = claim(story, "e", 1, "plan of e")
    story.begin()
    story.put("attempt", token)
    story.put("step", "plan of e", status="failed", error="it broke")
    cancel(story, "e")


def fail_an_audit_without_a_cause(story: Story) -> None:
    submit(story, "e")
    claim(story, "e", 1, "plan of e")
    story.put("step", "plan of e", status="cancelled")
    story.put("audit", "e", status="failed", error="it broke", finished_at=1.0)


PLANTED: list[tuple[str, Plant]] = [
    ("accepted_audits_end", lose_an_accepted_audit),
    ("accepted_audits_end", leave_an_audit_queued),
    ("steps_end_with_their_audit", leave_a_step_behind),
    ("one_audit_per_key", make_two_audits_of_one_key),
    ("one_audit_per_key", answer_one_key_with_two_audits),
    ("moves_of_audits_are_legal", cancel_what_has_succeeded),
    ("moves_of_audits_are_legal", begin_an_audit_as_running),
    ("moves_of_audits_are_legal", delete_an_audit),
    ("moves_of_steps_are_legal", skip_a_running_step),
    ("moves_of_steps_are_legal", delete_a_step),
    ("finished_when_terminal", end_without_a_time),
    ("finished_when_terminal", have_a_time_before_the_end),
    ("writes_are_fenced", publish_as_a_zombie),
    ("writes_are_fenced", write_a_colleagues_step),
    ("writes_are_fenced", write_another_audits_step),
    ("writes_are_fenced", write_before_the_fence),
    ("writes_are_fenced", score_what_nobody_runs),
    ("writes_are_fenced", report_without_an_attempt),
    ("one_publication", report_twice),
    ("one_publication", succeed_without_a_report),
    ("nothing_changes_after_the_end", tell_of_a_step_after_the_end),
    ("nothing_changes_after_the_end", begin_a_step_after_the_end),
    ("nothing_changes_after_the_end", leave_an_audit_that_has_ended),
    ("nothing_is_computed_twice", compute_again),
    ("succeeded_steps_stay", undo_a_success),
    ("one_runner_per_step", run_one_key_twice),
    ("one_runner_per_step", take_a_running_step_over),
    ("one_runner_per_step", run_two_steps_at_once),
    ("events_are_numbered", leave_an_event_out),
    ("events_are_numbered", change_an_event),
    ("attempts_are_numbered", leave_an_attempt_out),
    ("attempts_are_numbered", reopen_an_attempt),
    ("wake_ups_leave", tell_nobody),
    ("cancels_are_in_time", cancel_late),
    ("cancels_are_in_time", cancel_late_though_another_was_hit),
    ("cancels_are_in_time", cancel_very_late_after_a_fault),
    ("results_are_those_of_the_reference", give_another_result),
    ("results_are_those_of_the_reference", give_another_artifact),
    ("results_are_those_of_the_reference", ask_for_what_has_no_reference),
    ("results_are_those_of_the_reference", give_no_result_of_a_step),
    ("results_are_those_of_the_reference", give_no_report),
    ("deaths_are_bounded", die_too_often),
    ("failures_have_causes", fail_a_step_without_a_cause),
    ("failures_have_causes", fail_an_audit_without_a_cause),
]
