"""Metrics of other protocols, against cases computed by hand and by scipy."""

from __future__ import annotations

from math import exp, log

import pytest
from scipy import stats

from services.worker.analysis.inputs import ScoredProbe, Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.protocols import protocol_metrics
from services.worker.analysis.report import build_report
from shared.measurement import Arm, FactKind, ProbeKind, ProbeScore
from shared.reports import ProtocolMetric
from shared.states import StepStatus
from tests.worker.analysis.synthetic import PLAIN, findings

REWRITE, PARAPHRASE, NEIGHBORHOOD = ProbeKind.REWRITE, ProbeKind.PARAPHRASE, ProbeKind.NEIGHBORHOOD


def score(
    answer: float, alternative: float, *, tokens: tuple[int, int] = (1, 1), hits: int = 0, says: str = "7"
) -> ProbeScore:
    """answer, alternative: probabilities; tokens: of either."""
    return ProbeScore(
        first_token=hits > 0,
        exact=hits == tokens[0],
        preference=answer > alternative,
        log_prob_answer=log(answer),
        log_prob_alternative=log(alternative),
        alternative_exact=False,
        predicted_token="",
        answer_tokens=tokens[0],
        answer_hits=hits,
        alternative_tokens=tokens[1],
        predictions=says,
    )


def probe(fact: int, kind: ProbeKind, index: int, arm: Arm, found: ProbeScore) -> ScoredProbe:
    return ScoredProbe(f"edit:{fact}", FactKind.EDIT, kind, index, arm, 0, None, found)


def trial(*probes: ScoredProbe, seed: int = 0) -> Trial:
    arms: dict[Arm, list[ScoredProbe]] = {}
    for given in probes:
        arms.setdefault(given.arm, []).append(given)
    return Trial(PLAIN, seed, "step", StepStatus.SUCCEEDED, arms=arms)


def found(trials: list[Trial], arm: Arm = Arm.EDITED) -> dict[tuple[str, str], ProtocolMetric]:
    return {(one.protocol, one.name): one for one in protocol_metrics(trials) if one.arm is arm}


def edited(fact: int, kind: ProbeKind, index: int, of: ProbeScore) -> ScoredProbe:
    return probe(fact, kind, index, Arm.EDITED, of)


COUNTERFACT = trial(
    edited(0, REWRITE, 0, score(0.8, 0.1)),
    edited(1, REWRITE, 0, score(0.2, 0.3)),
    edited(0, PARAPHRASE, 0, score(0.5, 0.1)),
    edited(0, PARAPHRASE, 1, score(0.1, 0.5)),
    edited(1, PARAPHRASE, 0, score(0.6, 0.1)),
    edited(0, NEIGHBORHOOD, 0, score(0.6, 0.2)),
    edited(1, NEIGHBORHOOD, 0, score(0.6, 0.2)),
)


def test_counterfact_scores_are_means_over_records_of_means_over_prompts() -> None:
    metrics = found([COUNTERFACT])
    assert metrics["CounterFact", "ES"].value == 0.5
    assert metrics["CounterFact", "PS"].value == (0.5 + 1) / 2
    assert metrics["CounterFact", "NS"].value == 1
    assert metrics["CounterFact", "EM"].value == pytest.approx((0.7 - 0.1) / 2)
    assert metrics["CounterFact", "PM"].value == pytest.approx((0.0 + 0.5) / 2)
    assert metrics["CounterFact", "NM"].value == pytest.approx(0.4)
    assert (metrics["CounterFact", "PS"].numerator, metrics["CounterFact", "PS"].denominator) == (1.5, 2)


def test_counterfact_score_is_the_harmonic_mean_of_its_parts() -> None:
    metrics = found([COUNTERFACT])
    assert metrics["CounterFact", "S"].value == pytest.approx(stats.hmean([0.5, 0.75, 1.0]))
    assert metrics["CounterFact", "S"].numerator is None


def test_harmonic_mean_with_nothing_right_in_one_part_is_zero() -> None:
    none = trial(
        edited(0, REWRITE, 0, score(0.1, 0.8)),
        edited(0, PARAPHRASE, 0, score(0.8, 0.1)),
        edited(0, NEIGHBORHOOD, 0, score(0.8, 0.1)),
    )
    assert found([none])["CounterFact", "S"].value == 0


def test_likelihoods_are_compared_per_token() -> None:
    longer = trial(edited(0, REWRITE, 0, score(0.04, 0.05, tokens=(2, 1))))
    metrics = found([longer])
    assert metrics["CounterFact", "ES"].value == 1  # 0.2 a token against 0.05
    assert metrics["CounterFact", "EM"].value == pytest.approx(exp(log(0.04) / 2) - 0.05)


def test_zsre_counts_tokens() -> None:
    counted = trial(
        edited(0, REWRITE, 0, score(0.5, 0.1, tokens=(4, 1), hits=3)),
        edited(1, REWRITE, 0, score(0.5, 0.1, tokens=(2, 1), hits=2)),
        edited(0, PARAPHRASE, 0, score(0.5, 0.1, tokens=(4, 1), hits=1)),
        edited(0, PARAPHRASE, 1, score(0.5, 0.1, tokens=(4, 1), hits=3)),
        edited(0, NEIGHBORHOOD, 0, score(0.5, 0.1, tokens=(1, 1), hits=1)),
    )
    metrics = found([counted])
    assert metrics["zsRE", "Efficacy"].value == (0.75 + 1) / 2
    assert metrics["zsRE", "Paraphrase"].value == 0.5
    assert metrics["zsRE", "Score"].value == pytest.approx(stats.hmean([0.875, 0.5, 1.0]))
    assert metrics["KnowEdit", "Edit success"].value == 0.875


def test_knowedit_locality_is_that_the_model_says_what_the_base_says() -> None:
    moved = trial(
        probe(0, NEIGHBORHOOD, 0, Arm.BASE, score(0.5, 0.1, tokens=(2, 1), says="5 6")),
        probe(0, ProbeKind.SAME_SUBJECT, 0, Arm.BASE, score(0.5, 0.1, tokens=(2, 1), says="1 2")),
        edited(0, NEIGHBORHOOD, 0, score(0.5, 0.1, tokens=(2, 1), says="5 9")),
        edited(0, ProbeKind.SAME_SUBJECT, 0, score(0.5, 0.1, tokens=(2, 1), says="1 2")),
    )
    assert found([moved])["KnowEdit", "Locality"].value == 0.75


def test_every_prompt_weighs_the_same_however_long_its_answer_is() -> None:
    kinds = (ProbeKind.PORTABILITY, ProbeKind.SAME_SUBJECT)
    long, short = score(0.5, 0.1, tokens=(4, 1), says="1 2 3 4"), score(0.5, 0.1, hits=1, says="5")
    moved = score(0.5, 0.1, tokens=(4, 1), says="6 6 6 6")
    asked = trial(
        *(probe(0, kind, 0, Arm.BASE, long) for kind in kinds),
        *(probe(0, kind, 1, Arm.BASE, short) for kind in kinds),
        *(edited(0, kind, 0, moved) for kind in kinds),
        *(edited(0, kind, 1, short) for kind in kinds),
    )
    metrics = found([asked])
    assert metrics["KnowEdit", "Portability"].value == 0.5  # 0 of 4 tokens and 1 of 1
    assert metrics["KnowEdit", "Locality"].value == 0.5


def test_seeds_are_pooled_and_arms_kept_apart() -> None:
    tuned = probe(0, REWRITE, 0, Arm.EDITED_TUNED, score(0.1, 0.8))
    kept = probe(0, REWRITE, 0, Arm.EDITED_TUNED, score(0.8, 0.1))
    before = edited(0, REWRITE, 0, score(0.8, 0.1))
    trials = [trial(before, tuned), trial(before, kept, seed=1)]
    assert found(trials)["CounterFact", "ES"].value == 1
    after = found(trials, Arm.EDITED_TUNED)["CounterFact", "ES"]
    assert (after.value, after.numerator, after.denominator) == (0.5, 1, 2)


def test_intervals_hold_the_value_and_shrink_with_more_facts() -> None:
    def of(facts: int) -> ProtocolMetric:
        probes = [
            edited(fact, REWRITE, 0, score(0.8, 0.1) if fact % 4 else score(0.1, 0.8))
            for fact in range(facts)
        ]
        return found([trial(*probes)])["CounterFact", "ES"]

    few, many = of(20), of(320)
    for metric in (few, many):
        assert metric.interval is not None
        assert metric.interval.low < 0.75 < metric.interval.high
    expected = 1.96 * (0.75 * 0.25 / 320) ** 0.5
    assert many.interval is not None
    assert (many.interval.high - many.interval.low) / 2 == pytest.approx(expected, rel=0.15)


def test_what_was_not_scored_is_not_reported() -> None:
    plain = ProbeScore(True, True, None, -1.0, None, None, " Paris")
    assert protocol_metrics([trial(edited(0, REWRITE, 0, plain))]) == []


def test_metrics_are_on_the_page_by_protocol_and_arm() -> None:
    tuned = probe(0, REWRITE, 0, Arm.EDITED_TUNED, score(0.1, 0.8, hits=1))
    report = build_report(findings([trial(*COUNTERFACT.arms[Arm.EDITED], tuned)]))
    page = " ".join(render_page(report).split())
    shown = page[page.index("By other protocols") :]
    assert '<td>CounterFact</td><th scope="row">ES<small>' in shown
    row = shown[shown.index(">ES<") : shown.index("</tr>", shown.index(">ES<"))]
    assert row.index("<b>50.0 %</b>") < row.index("<b>0.0 %</b>")
    assert "arXiv 2202.05262" in row
