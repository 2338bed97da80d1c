"""What a history must show, rule by rule: pure functions from a history to what breaks the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.chaos.history import History
from tests.chaos.rules.endings import (
    accepted_audits_end,
    cancels_are_in_time,
    failures_have_causes,
    nothing_changes_after_the_end,
    one_audit_per_key,
    steps_end_with_their_audit,
    wake_ups_leave,
)
from tests.chaos.rules.fencing import attempts_are_numbered, one_publication, writes_are_fenced
from tests.chaos.rules.moves import (
    events_are_numbered,
    finished_when_terminal,
    moves_of_audits_are_legal,
    moves_of_steps_are_legal,
)
from tests.chaos.rules.results import results_are_those_of_the_reference
from tests.chaos.rules.violation import Violation
from tests.chaos.rules.work import (
    deaths_are_bounded,
    nothing_is_computed_twice,
    one_runner_per_step,
    succeeded_steps_stay,
)

__all__ = ["RULES", "Violation"]

Rule = Callable[[History], Iterator[Violation]]
RULES: tuple[Rule, ...] = (
    accepted_audits_end,
    steps_end_with_their_audit,
    one_audit_per_key,
    moves_of_audits_are_legal,
    moves_of_steps_are_legal,
    finished_when_terminal,
    writes_are_fenced,
    one_publication,
    nothing_changes_after_the_end,
    nothing_is_computed_twice,
    succeeded_steps_stay,
    one_runner_per_step,
    events_are_numbered,
    attempts_are_numbered,
    wake_ups_leave,
    cancels_are_in_time,
    results_are_those_of_the_reference,
    deaths_are_bounded,
    failures_have_causes,
)
