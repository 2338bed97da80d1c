"""Everything that can happen to audits, in any order, on a database whose clock the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from shared.audit_moves import move_audit
from shared.database import transaction
from shared.leases import LeaseLost, renew
from shared.states import AuditStatus, IllegalTransition, StepStatus
from shared.step_moves import IllegalStepMove, move_step
from tests.shared.state_machine.clock import ClockedDatabase
from tests.shared.state_machine.doings import Doings
from tests.shared.state_machine.records import AUDIT_MOVES, STEP_MOVES, ModelAudit, ModelStep
from tests.shared.state_machine.shapes import SHAPES, Wish
from tests.shared.state_machine.workers import (
    Ending,
    Spell,
    every_write,
    hand_over_fenced,
    lose_fenced,
    report,
)

MOST_AUDITS = 4
MOST_AT_ONCE = 2
MOST_VAIN_CLAIMS = 3
FAIR_ROUNDS = 40
LONG_SECONDS = 61.0  # longer than a lease, and than the wait before a wake-up is repeated

ENDINGS = [*Ending, Ending.INPUT_DAMAGED, Ending.INPUT_DAMAGED]  # success, for most kinds of step
KINDS = ("plan", "base", "prepare", "edit", "tune")
which = st.integers(0, 11)  # one of those that there are


wish = st.builds(
    Wish,
    submitter=st.sampled_from(["ann", "bob"]),
    priority=st.sampled_from([0, 0, 0, 1]),
    shape=st.sampled_from(SHAPES),
    model=st.sampled_from(["m", "m", "n"]),
    queue_seconds=st.sampled_from([None, None, None, 20]),
    run_seconds=st.sampled_from([None, None, 20]),
    old_code=st.sampled_from([False, False, True]),
    from_scratch=st.sampled_from([False, False, True]),
    unwanted=st.sampled_from([False, False, True]),
    worn=st.sampled_from([False, False, True]),
    asked_done=st.sampled_from([(), KINDS[:1], KINDS[:2], KINDS[:4], KINDS[:4], KINDS]),
)

T = TypeVar("T")


def one_of(those: Sequence[T], which: int) -> T:
    """One of those that there are."""
    return those[which % len(those)]


class Jobs(Doings):
    """Submitters, workers and the gateway, and whatever befalls them."""

    def __init__(self, database: ClockedDatabase) -> None:
        super().__init__(database)
        self.refused: set[tuple[str, str]] = set()  # states of an audit and a step that were asked
        self.to_the_end = False  # whether fair workers finish what is left; it takes long
        self.vain_claims = 0

    @property
    def to_do(self) -> int:
        """Audits that have not ended."""
        return sum(not audit.has_ended for audit in self.model.audits.values())

    @property
    def unwanted(self) -> list[ModelAudit]:
        """Audits that may be cancelled."""
        audits = self.model.audits.values()
        return [audit for audit in audits if self.wishes[audit.id].unwanted and not audit.has_ended]

    @property
    def not_yet_refused(self) -> list[tuple[ModelAudit, ModelStep]]:
        """One audit and one step of it in each pair of states that was not yet asked to do the illegal."""
        pairs = {
            (audit.status, step.status): (audit, step)
            for audit in self.model.audits.values()
            for step in audit.steps
        }
        return [pair for states, pair in pairs.items() if states not in self.refused]

    @property
    def open_spells(self) -> list[Spell]:
        return [spell for spell in self.spells if spell.attempt.is_open]

    @property
    def busy_spells(self) -> list[Spell]:
        return [spell for spell in self.spells if spell.attempt.step is not None]

    @property
    def zombies(self) -> list[Spell]:
        """Workers that have not yet tried to write after their end."""
        return [spell for spell in self.spells if not spell.attempt.is_open and not spell.was_refused]

    # The submitters

    @initialize(
        wishes=st.lists(wish, min_size=1, max_size=2),
        workers=st.integers(2, 4),
        to_the_end=st.sampled_from([False, False, True]),
    )
    def begin_with(self, wishes: list[Wish], workers: int, to_the_end: bool) -> None:
        """Some audits wait, and workers come."""
        self.to_the_end = to_the_end
        for wish in wishes:
            self.accept(wish)
        for _ in range(workers):
            self.begin()

    @precondition(lambda self: len(self.model.audits) < MOST_AUDITS and self.to_do < MOST_AT_ONCE)
    @rule(wish=wish)
    def submit(self, wish: Wish) -> None:
        self.accept(wish)

    @precondition(lambda self: self.unwanted)
    @rule(which=which)
    def cancel(self, which: int) -> None:
        self.tick()
        audit = one_of(self.unwanted, which)
        assert self.request_cancel(audit) == self.model.cancel(audit)

    # The workers

    @precondition(lambda self: self.model.takeable() or self.vain_claims < MOST_VAIN_CLAIMS)
    @rule()
    def claim(self) -> None:
        if self.begin() is None:
            self.vain_claims += 1

    @precondition(lambda self: self.busy_spells)
    @rule(which=which, ending=st.sampled_from(ENDINGS), stutter=st.booleans())
    def step_ends(self, which: int, ending: Ending, stutter: bool) -> None:
        self.end_step(one_of(self.busy_spells, which), ending, stutter=stutter)

    @precondition(lambda self: self.open_spells)
    @rule(which=which, stutter=st.booleans())
    def next_step(self, which: int, stutter: bool) -> None:
        self.take_next(one_of(self.open_spells, which), stutter=stutter)

    @precondition(lambda self: self.open_spells)
    @rule(which=which, steps=st.integers(1, 2))
    def work_on(self, which: int, steps: int) -> None:
        self.work(one_of(self.open_spells, which), steps)

    @precondition(lambda self: self.open_spells)
    @rule(which=which, share=st.sampled_from([None, 0.25, 0.5]), saved=st.booleans())
    def gives_a_sign(self, which: int, share: float | None, saved: bool) -> None:
        self.tick()
        spell = one_of(self.open_spells, which)
        if share is None or spell.attempt.step is None:
            assert renew(self.engine, spell.lease).status == spell.attempt.audit.status
            self.model.hold(spell.attempt)
        else:
            report(spell.context, spell.last, share, saved=saved)
            self.model.report(spell.attempt, share, saved=saved)

    @precondition(lambda self: self.open_spells)
    @rule(which=which, how=st.sampled_from(["drained", "stopped", "killed", "killed"]))
    def goes(self, which: int, how: str) -> None:
        self.tick()
        spell = one_of(self.open_spells, which)
        if how == "drained":
            spell.drain()
        elif how == "stopped":
            hand_over_fenced(self.engine, spell.lease)
            self.model.hand_over(spell.attempt)
        else:
            lose_fenced(self.engine, spell.lease)
            self.model.hold(spell.attempt)
            self.model.lose(spell.attempt)

    # The gateway

    @precondition(lambda self: self.last != "time_passes")
    @rule(seconds=st.sampled_from([1.0, 11.0, 26.0, 31.0, 41.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds)
        self.last = "time_passes"

    @precondition(lambda self: self.last != "gateway_looks")
    @rule(task=st.sampled_from(["reap", "expire", "finish_cancels", "all", "all"]))
    def gateway_looks(self, task: str) -> None:
        """What is sent is lost on its way."""
        if task == "all":
            self.gateway_round()
        else:
            {"reap": self.reap, "expire": self.expire, "finish_cancels": self.finish_cancels}[task]()
        self.last = "gateway_looks"

    # What must be refused

    @precondition(lambda self: self.not_yet_refused)
    @rule(which=which)
    def illegal_moves(self, which: int) -> None:
        """Wherever a state does not lead; and where it does, for whoever does not hold the step."""
        self.tick()
        audit, step = one_of(self.not_yet_refused, which)
        self.refused.add((audit.status, step.status))

        def move_step_to(wanted: StepStatus) -> None:
            held_by = "somebody else" if wanted in STEP_MOVES[step.status] else None
            with transaction(self.engine) as session:
                move_step(session, step.id, wanted, held_by=held_by)

        def move_audit_to(wanted: AuditStatus) -> None:
            with transaction(self.engine) as session:
                move_audit(session, audit.id, wanted)

        before = self.database.contents()
        for wanted in StepStatus:
            with pytest.raises(IllegalStepMove):
                move_step_to(wanted)
        for status in set(AuditStatus) - AUDIT_MOVES[audit.status]:
            with pytest.raises(IllegalTransition):
                move_audit_to(AuditStatus(status))
        if audit.has_ended:
            with pytest.raises(IllegalTransition):
                self.request_cancel(audit)
        assert self.database.contents() == before

    @precondition(lambda self: self.zombies)
    @rule(which=which)
    def zombie_writes(self, which: int) -> None:
        self.tick()
        zombie = one_of(self.zombies, which)
        before = self.database.contents()
        for write in every_write(zombie):
            with pytest.raises(LeaseLost):
                write()
        assert self.database.contents() == before
        zombie.was_refused = True

    # Always

    @invariant()
    def all_is_well(self) -> None:
        self.watch.look(self.model)
        self.sound = True

    def teardown(self) -> None:
        """Workers that hear of work do it, and then no audit is left."""
        if not (self.sound and self.to_the_end):
            return
        self.tick(LONG_SECONDS)  # whoever is at work is lost
        self.gateway_round()  # and so is what the broker is given now
        for _ in range(FAIR_ROUNDS):
            if self.to_do == 0:
                return
            self.fair_round()
        assert self.to_do == 0, "an audit was lost"

    def fair_round(self) -> None:
        """The gateway looks after the queue, and whoever is told of work takes all there is."""
        self.tick(LONG_SECONDS)
        if self.gateway_round():
            while (spell := self.begin()) is not None:
                self.work(spell, steps=None)
        self.all_is_well()
