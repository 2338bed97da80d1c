"""How each thing is done: to the product and to its model, which must then agree."""

from __future__ import annotations

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from services.worker.steps import order
from services.worker.steps.content_keys import code_version
from shared.audit_moves import request_cancel
from shared.claims import claim
from shared.database import database_now, transaction
from shared.leases import LeaseLost
from shared.outbox import relay, repeat_unheard_wake_ups
from shared.recovery import expire_overdue, finish_cancels, reap_expired
from shared.states import AuditStatus
from shared.step_moves import settle
from shared.tables import new_id
from tests.shared.state_machine.clock import ClockedDatabase
from tests.shared.state_machine.invariants import Watch
from tests.shared.state_machine.model import (
    CANCEL_DEADLINE_SECONDS,
    LEASE_SECONDS,
    MAX_DEATHS,
    Model,
    Refused,
)
from tests.shared.state_machine.records import ModelAttempt, ModelAudit, ModelStep
from tests.shared.state_machine.shapes import Wish, lay_out
from tests.shared.state_machine.workers import Ending, Spell, StoreOfNames, begin_spell, publish, run_step
from tests.support.audits import add_audit

WAKE_UP_SECONDS = 5.0


class Doings(RuleBasedStateMachine):
    """What rules are made of."""

    def __init__(self, database: ClockedDatabase) -> None:
        super().__init__()
        database.empty()
        self.database = database
        self.engine = database.engine
        self.model = Model()
        self.watch = Watch(database)
        self.store = StoreOfNames()
        self.spells: list[Spell] = []
        self.wishes: dict[str, Wish] = {}  # by audit
        self.sound = True  # nothing has gone wrong so far
        self.last = ""  # the last rule, where doing it twice is doing it once
        self.tick()

    def tick(self, seconds: float = 0.001) -> None:
        """Nothing takes no time at all."""
        self.sound = False
        self.last = ""
        self.database.pass_time(seconds)
        self.model.now = self.database.now

    def accept(self, wish: Wish) -> None:
        """Write an audit as the gateway does; an earlier worker has got so far with it."""
        self.tick()
        audit_id = add_audit(
            self.engine,
            submitter=wish.submitter,
            priority=wish.priority,
            expires_at=None if wish.queue_seconds is None else database_now(wish.queue_seconds),
            run_seconds=wish.run_seconds,
            from_scratch=wish.from_scratch,
        )
        self.wishes[audit_id] = wish
        plan = ModelStep(new_id(), 0, "plan", f"plan {audit_id}", [])
        steps = [plan, *self.plan(audit_id)] if wish.done else [plan]
        self.model.submit(audit_id, steps, wish)
        with transaction(self.engine) as session:
            publish(session, audit_id, steps)
            settle(session, audit_id)

    def request_cancel(self, audit: ModelAudit) -> AuditStatus:
        """Ask for it."""
        with transaction(self.engine) as session:
            return request_cancel(session, audit.id)

    def reap(self) -> None:
        """End attempts whose lease has run out."""
        self.tick()
        assert sorted(reap_expired(self.engine, MAX_DEATHS)) == sorted(self.model.reap())

    def expire(self) -> None:
        """End audits whose time is over."""
        self.tick()
        assert sorted(expire_overdue(self.engine)) == sorted(self.model.expire())

    def finish_cancels(self) -> None:
        """End audits whose workers have not."""
        self.tick()
        ended = finish_cancels(self.engine, CANCEL_DEADLINE_SECONDS)
        assert sorted(ended) == sorted(self.model.finish_cancels())

    def gateway_round(self) -> list[str]:
        """Everything that the gateway looks after; the audits whose workers-to-be it woke."""
        self.reap()
        self.expire()
        self.finish_cancels()
        repeat_unheard_wake_ups(self.engine, WAKE_UP_SECONDS)
        unsent = self.database.rows("SELECT audit_id FROM outbox_message WHERE sent_at IS NULL")
        sent: list[str] = []
        relay(self.engine, lambda _kind, audit_id: sent.append(audit_id))
        assert set(sent) == {audit_id for (audit_id,) in unsent}
        return sent

    def begin(self) -> Spell | None:
        """Claim what is next, which must be what is next in the model."""
        self.tick()
        expected = next(iter(self.model.takeable()), None)
        lease = claim(self.engine, "worker", LEASE_SECONDS, code_version())
        if expected is None:
            assert lease is None
            return None
        assert lease is not None, "there is work, and it cannot be claimed"
        attempt = self.model.claim(lease.attempt_id)
        assert lease.audit_id == attempt.audit.id, "it was another audit's turn"
        spell = begin_spell(self.engine, self.store, lease, attempt)
        self.spells.append(spell)
        return spell

    def work(self, spell: Spell, steps: int | None) -> None:
        """Run a number of steps, or all until the attempt ends."""
        while spell.attempt.is_open and (steps is None or steps > 0):
            if spell.attempt.step is not None:
                self.end_step(spell, Ending.SUCCESS)
                steps = None if steps is None else steps - 1
            if spell.attempt.is_open:
                self.take_next(spell)

    def end_step(self, spell: Spell, ending: Ending, *, stutter: bool = False) -> None:
        """Run the step at hand to its end."""
        self.tick()
        attempt, step = spell.attempt, spell.attempt.step
        assert step is not None
        spell.last = step
        planned = self.plan(attempt.audit.id) if step.kind == "plan" else []
        if ending is Ending.INPUT_DAMAGED and step.reads is not None and step.reads.artifact is not None:
            self.model.damaged.add(step.reads.artifact)
        self.store.damaged = frozenset(self.model.damaged)

        def run() -> None:
            context = spell.stuttering if stutter else spell.context
            run_step(context, ending, step, lambda session: publish(session, attempt.audit.id, planned))

        before = self.database.contents()
        try:
            self.expect(attempt, ending, planned)
        except Refused:
            with pytest.raises(LeaseLost):
                run()
            assert self.database.contents() == before
            return
        try:
            run()
        except LeaseLost:
            assert stutter, "a write was refused"
            assert not attempt.is_open, "a write was refused"
        spell.agree()

    def expect(self, attempt: ModelAttempt, ending: Ending, planned: list[ModelStep]) -> None:
        """What the model makes of a step's end."""
        assert attempt.step is not None
        if (earlier := self.model.identical(attempt)) is not None:
            self.model.reuse(attempt, earlier)
        elif ending is Ending.FAILURE:
            self.model.fail(attempt)
        elif ending is Ending.SURROUNDINGS_AWAY:
            self.model.try_later(attempt)
        elif ending is Ending.UNFORESEEN:
            self.model.break_down(attempt)
        elif ending is Ending.ASKED_TO_LEAVE:
            self.model.hand_over(attempt)
        elif ending is Ending.INPUT_DAMAGED and attempt.step.reads is not None:
            self.model.find_damage(attempt)
        else:
            self.model.succeed(attempt, planned)

    def take_next(self, spell: Spell, *, stutter: bool = False) -> None:
        """Ask for the next step, and be given the model's."""
        self.tick()
        self.model.next_step(spell.attempt)
        try:
            step = order.next_step(spell.stuttering if stutter else spell.context)
        except LeaseLost:
            assert stutter, "a worker was turned away"
            step = None
        assert (step and step.id) == (spell.attempt.step and spell.attempt.step.id)
        spell.last = spell.attempt.step or spell.last

    def plan(self, audit_id: str) -> list[ModelStep]:
        """What the audit's plan lays out."""
        steps: list[ModelStep] = []
        for position, planned in enumerate(lay_out(self.wishes[audit_id], audit_id), start=1):
            needs = [steps[place] for place in planned.needs]
            reads = None if planned.reads is None else steps[planned.reads]
            steps.append(ModelStep(new_id(), position, planned.kind, planned.key, needs, reads))
        return steps
