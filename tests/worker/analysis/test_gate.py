"""Rules pass and fail on bounds, say why, and say what would settle them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.worker.analysis.counts import FactCounts
from services.worker.analysis.gate import combine, decide, evidence, judge
from services.worker.analysis.inputs import Trial
from services.worker.analysis.intervals import share_of
from services.worker.analysis.more_seeds import with_more_seeds
from shared.measurement import Arm, FactKind, Mode
from shared.reports import RuleDecision
from shared.requests import GateRule
from shared.states import Verdict
from tests.worker.analysis.synthetic import failed_trial, rows, trial

RETENTION = GateRule(metric="retention", at_least=0.8)
EXCESS = GateRule(metric="excess_decay", at_most=0.1)


def kept(number: int, of: int) -> tuple[list[bool], list[bool]]:
    return [True] * of, [index < number for index in range(of)]


def decision(verdict: Verdict) -> RuleDecision:
    return RuleDecision(rule=RETENTION, verdict=verdict, estimate=None, bound=None, why="")


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(58, Verdict.PASS), (52, Verdict.INCONCLUSIVE), (46, Verdict.INCONCLUSIVE), (38, Verdict.FAIL)],
)
def test_a_share_is_judged_by_its_bound(number: int, verdict: Verdict) -> None:
    assert decide(RETENTION, [trial(kept(number, 60), kept(60, 60))]).verdict is verdict


@pytest.mark.parametrize(
    ("edits", "verdict"), [(97, Verdict.PASS), (90, Verdict.INCONCLUSIVE), (60, Verdict.FAIL)]
)
def test_excess_decay_is_judged_by_its_bound(edits: int, verdict: Verdict) -> None:
    assert decide(EXCESS, [trial(kept(edits, 100), kept(97, 100))]).verdict is verdict


def test_the_bound_shown_is_the_one_on_the_thresholds_side() -> None:
    above = decide(RETENTION, [trial(kept(58, 60), kept(60, 60))])
    below = decide(RETENTION, [trial(kept(38, 60), kept(60, 60))])
    assert above.bound is not None
    assert below.bound is not None
    assert above.estimate is not None
    assert below.estimate is not None
    assert 0.8 <= above.bound < above.estimate
    assert below.estimate < below.bound < 0.8


def test_the_number_of_edits_that_would_settle_it_is_the_fewest_that_do() -> None:
    found = decide(RETENTION, [trial(kept(52, 60), kept(60, 60))])
    needed = found.facts_needed
    assert needed is not None

    def verdict_with(fifteens: int) -> Verdict:  # 52 of 60 are 13 of 15
        return decide(RETENTION, [trial(kept(13 * fifteens, 15 * fifteens), kept(9, 9))]).verdict

    assert verdict_with(-(-needed // 15)) is Verdict.PASS
    assert verdict_with((needed - 1) // 15) is Verdict.INCONCLUSIVE


def test_edits_that_did_not_take_are_counted_among_those_needed() -> None:
    everywhere = decide(RETENTION, [trial(kept(52, 60), kept(60, 60))]).facts_needed
    before, after = kept(52, 60)
    half = trial((before + [False] * 60, after + [False] * 60), kept(60, 60))
    needed = decide(RETENTION, [half]).facts_needed
    assert everywhere is not None
    assert needed == pytest.approx(2 * everywhere, abs=2)


def test_no_number_of_edits_settles_an_estimate_at_the_threshold() -> None:
    found = decide(RETENTION, [trial(kept(48, 60), kept(60, 60))])
    assert (found.verdict, found.facts_needed) == (Verdict.INCONCLUSIVE, None)
    assert "exactly the threshold" in found.why


def test_seeds_that_repeat_each_other_do_not_settle_a_rule() -> None:
    answers = kept(52, 60), kept(60, 60)
    once = decide(RETENTION, [trial(*answers)])
    often = decide(RETENTION, [trial(*answers, seed=seed) for seed in range(20)])
    assert often.bound == pytest.approx(once.bound)


def disagreeing_seeds(number: int) -> list[Trial]:
    """45 of 60 edits kept under every seed, others each time: seeds add nearly what as many facts would."""
    lost = [{(15 * seed + offset) % 60 for offset in range(15)} for seed in range(number)]
    return [
        trial(([True] * 60, [index not in gone for index in range(60)]), kept(60, 60), seed=seed)
        for seed, gone in enumerate(lost)
    ]


def test_the_number_of_seeds_that_would_settle_it_is_the_fewest_that_do() -> None:
    rule = GateRule(metric="retention", at_least=0.7)
    trials = disagreeing_seeds(3)
    found, known = decide(rule, trials), evidence(rule, trials)
    needed = found.seeds_needed
    assert found.verdict is Verdict.INCONCLUSIVE
    assert needed is not None
    assert not isinstance(known, str)

    def verdict_with(seeds: int) -> Verdict:
        bounds = known.bounds_over(seeds / 3)
        assert bounds is not None
        return judge(rule, *bounds)

    assert verdict_with(needed) is Verdict.PASS
    assert verdict_with(needed - 1) is Verdict.INCONCLUSIVE
    assert f", or about {needed} seeds (3 were run)." in found.why


def test_seeds_add_what_their_correlation_leaves_them() -> None:
    facts = tuple(f"edit:{index}" for index in range(400))
    successes = np.random.default_rng(0).binomial(3, np.repeat([0.5, 0.9], 200)).astype(float)
    counts = FactCounts(facts, successes, np.full(400, 3.0))
    now, then, forever = share_of(counts), with_more_seeds(counts, 2.0), with_more_seeds(counts, 1e9)
    assert now is not None
    assert then is not None
    assert forever is not None
    correlation = (400 * 3 / now.effective_trials - 1) / 2
    assert then.effective_trials == pytest.approx(400 * 6 / (1 + 5 * correlation))
    assert forever.effective_trials == pytest.approx(400 / correlation)


def test_no_number_of_seeds_that_repeat_each_other_is_named() -> None:
    answers = kept(52, 60), kept(60, 60)
    found = decide(RETENTION, [trial(*answers, seed=seed) for seed in range(3)])
    assert (found.verdict, found.seeds_needed) == (Verdict.INCONCLUSIVE, None)


def test_one_seed_does_not_tell_how_many_would_settle_it() -> None:
    found = decide(RETENTION, [trial(kept(52, 60), kept(60, 60))])
    assert (found.facts_needed is None, found.seeds_needed) == (False, None)


def test_seeds_are_named_for_excess_decay_as_well() -> None:
    rule = GateRule(metric="excess_decay", at_most=0.3)
    found = decide(rule, disagreeing_seeds(3))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.seeds_needed is not None


def test_no_number_of_seeds_settles_what_is_measured_before_tuning() -> None:
    rule = GateRule(metric="efficacy", at_least=0.97)
    found = decide(rule, [trial(kept(52, 60), kept(60, 60), seed=seed) for seed in range(3)])
    assert (found.verdict, found.seeds_needed) == (Verdict.INCONCLUSIVE, None)


def test_without_a_measured_trial_the_rule_is_inconclusive_and_says_so() -> None:
    found = decide(RETENTION, [failed_trial(0)])
    assert (found.verdict, found.estimate) == (Verdict.INCONCLUSIVE, None)
    assert found.why == "Retention of edits (exact) cannot be judged: the edited model was not measured."


def test_without_a_measured_tuning_retention_is_inconclusive_and_says_so() -> None:
    edited = replace(failed_trial(0), arms={Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, [True] * 30)})
    found = decide(RETENTION, [edited])
    assert found.why == (
        "Retention of edits (exact) cannot be judged: no fine-tuning of the edited model was measured."
    )


def test_without_a_measured_tuning_efficacy_is_judged_all_the_same() -> None:
    edited = replace(failed_trial(0), arms={Arm.EDITED: rows(Arm.EDITED, FactKind.EDIT, [True] * 30)})
    assert decide(GateRule(metric="efficacy", at_least=0.5), [edited]).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (RETENTION, "no edit was right just before tuning"),
        (EXCESS, "no edit was right just before tuning"),
        (GateRule(metric="reversion", at_most=0.5), "no edit was lost"),
        (GateRule(metric="locality", at_least=0.5), "no neighbourhood prompt was right before editing"),
    ],
)
def test_a_share_of_nothing_is_inconclusive_and_says_of_what(rule: GateRule, reason: str) -> None:
    found = decide(rule, [trial(([False], [False]), ([True], [True]))])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert reason in found.why


def test_excess_decay_without_controls_is_inconclusive_and_says_so() -> None:
    found = decide(EXCESS, [trial(([True], [True]), ([], []))])
    assert "no control fact was right just before tuning" in found.why


def test_the_reason_gives_estimate_counts_bound_and_threshold() -> None:
    found = decide(RETENTION, [trial(kept(58, 60), kept(60, 60))])
    assert found.why == (
        "Retention of edits (exact) is 96.7 % (58 of 60); with 95 % confidence it is at least 89.9 %, "
        "as required (at least 80.0 %)."
    )


def test_every_metric_of_the_gate_can_be_decided() -> None:
    answers = trial(kept(50, 60), kept(55, 60))
    for metric in ("retention", "excess_decay", "reversion", "efficacy"):
        found = decide(GateRule(metric=metric, mode=Mode.EXACT, at_least=0.0), [answers])
        assert found.estimate is not None, metric


def test_one_failed_rule_fails_the_whole() -> None:
    decisions = [decision(Verdict.PASS), decision(Verdict.INCONCLUSIVE), decision(Verdict.FAIL)]
    assert combine(decisions, every_trial_succeeded=True) is Verdict.FAIL


def test_all_rules_passed_is_a_pass() -> None:
    assert combine([decision(Verdict.PASS)] * 2, every_trial_succeeded=True) is Verdict.PASS


def test_a_missing_trial_withholds_the_pass() -> None:
    assert combine([decision(Verdict.PASS)] * 2, every_trial_succeeded=False) is Verdict.INCONCLUSIVE


def test_a_missing_trial_does_not_undo_a_fail() -> None:
    assert combine([decision(Verdict.FAIL)], every_trial_succeeded=False) is Verdict.FAIL


def test_one_inconclusive_rule_withholds_the_pass() -> None:
    decisions = [decision(Verdict.PASS), decision(Verdict.INCONCLUSIVE)]
    assert combine(decisions, every_trial_succeeded=True) is Verdict.INCONCLUSIVE
