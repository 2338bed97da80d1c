"""The same seed breaks the same things at the same moments, and every kind of fault has its turn."""

from __future__ import annotations

from shared.requests import AuditRequest
from tests.chaos.asks import SHAPES, body, plan_asks
from tests.chaos.faults import FAULTS
from tests.chaos.nemesis import plan_faults
from tests.chaos.recovery import recoveries
from tests.chaos.stage import seeded
from tests.chaos.stories import Story, claim, reap, submit

SECONDS = 120.0


def test_same_seed_plans_the_same_run() -> None:
    assert plan_asks(seeded("asks", 3), SECONDS) == plan_asks(seeded("asks", 3), SECONDS)
    assert plan_faults(seeded("faults", 3), SECONDS) == plan_faults(seeded("faults", 3), SECONDS)


def test_another_seed_plans_another_run() -> None:
    assert plan_asks(seeded("asks", 3), SECONDS) != plan_asks(seeded("asks", 4), SECONDS)
    assert plan_faults(seeded("faults", 3), SECONDS) != plan_faults(seeded("faults", 4), SECONDS)


def test_no_kind_of_fault_comes_again_before_all_others_had_their_turn() -> None:
    kinds = [planned.fault.kind for planned in plan_faults(seeded("faults", 3), SECONDS)]
    assert len(kinds) > 2 * len(FAULTS)
    assert len(set(kinds[: len(FAULTS)])) == len(FAULTS)


def test_every_shape_of_request_is_one_that_the_service_takes() -> None:
    for shape in SHAPES:
        assert AuditRequest.model_validate(body(f"{shape}/5")).seeds == (5,)


def test_recovery_lasts_from_the_fault_to_the_next_start_of_the_step_it_hit() -> None:
    story = Story()
    submit(story, "a")
    token = claim(story, "a", 1, "plan of a", worker="w1")
    story.add("fault", kind="kill_worker", fault=1, act="began", target=None, workers=["w1"])
    story.add("fault", kind="kill_worker", fault=2, act="began", target=None, workers=["w2"])
    reap(story, token, "a", "plan of a")  # after 5 seconds
    claim(story, "a", 2, "plan of a", worker="w2")  # after 1 second more
    [(seconds, fault)] = recoveries(story.history())
    assert (seconds, fault["fault"]) == (6.0, 1)
