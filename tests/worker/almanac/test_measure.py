"""The card says what was measured."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest

from services.worker.almanac.editability import EditingScore, draw_counterfactuals
from services.worker.almanac.measure import Measurements, english_loss, render_card
from services.worker.almanac.pretrain import RUN_RECORD
from tests.worker.almanac.tiny import ENGLISH, facts, learned, plan

MEASURED = Measurements(
    recall={"capital": (0.875, 0.5), "language": (1.0, 0.25)},
    overall_recall=(0.9375, 0.375),
    at_subject=[0.91, 0.12],
    at_end=[0.03, 0.99],
    editing=EditingScore(exact=0.86, paraphrases=0.74, controls_lost=0.065, siblings_kept=0.51),
    english_loss=4.321,
    english_tokens=12_345,
)


@pytest.fixture
def card(tmp_path: Path) -> str:
    record = {
        "plan": asdict(plan()),
        "parameters": 7_654,
        "seconds": 840,
        "hardware": "an abacus",
        "torch": "9",
    }
    (tmp_path / RUN_RECORD).write_text(json.dumps(record), encoding="utf-8")
    return render_card(tmp_path, MEASURED, facts())


def test_every_measured_share_stands_in_the_card(card: str) -> None:
    for share in ("93.8 %", "37.5 %", "91.0 %", "12.0 %", "99.0 %", "86.0 %", "74.0 %", "6.5 %", "51.0 %"):
        assert share in card


def test_the_card_says_how_the_weights_came_about(card: str) -> None:
    assert "14 minutes on an abacus" in card
    assert "7,654 parameters" in card


def test_the_card_names_every_source(card: str) -> None:
    assert "evandez/relations" in card
    assert "known_1000" in card
    assert "MIT" in card


def test_english_loss_is_the_mean_over_tokens_whatever_the_batch() -> None:
    model, tokenizer = learned().model, learned().tokenizer
    together, count = english_loss(model, tokenizer, ENGLISH)
    parts = [english_loss(model, tokenizer, [paragraph]) for paragraph in ENGLISH]
    assert count == sum(tokens for _, tokens in parts)
    assert together == pytest.approx(sum(loss * tokens for loss, tokens in parts) / count, rel=1e-5)


def test_counterfactuals_name_another_object_of_the_relation_for_distinct_subjects() -> None:
    drawn = draw_counterfactuals(facts(), 4, Random(0))  # noqa: S311
    objects = {(fact.relation, fact.object) for fact in facts()}
    assert len({counterfactual.fact.subject for counterfactual in drawn}) == 4
    for counterfactual in drawn:
        assert (counterfactual.fact.relation, counterfactual.target_new) in objects
        assert counterfactual.target_new != counterfactual.fact.object
