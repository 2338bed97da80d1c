"""What is wrong with a request as a whole, and what finding out costs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared import requests
from shared.gate import Configuration
from shared.requests import MAX_TRIALS, AuditRequest

EDIT = {"prompt": "{} lives in", "subject": "Ada", "target_new": "Rome", "target_true": "Oslo"}
RECORDS = [{"text": "a"}, {"text": "b"}]
FREEZE = [f"layers:{index}" for index in range(20)]


def body(**changes: Any) -> dict[str, Any]:
    recipe = {"objective": "causal_lm", "data": {"records": RECORDS}, "freeze": FREEZE}
    return {
        "model": "builtin:almanac",
        "edits": [EDIT],
        "editors": [{"name": "rome"}],
        "recipes": [{"name": "english", **recipe}],
        "gate": [{"freeze": freeze, "at_least": 0.5} for freeze in FREEZE],
        **changes,
    }


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """Every configuration that is written out."""
    found = []

    def noted(**fields: Any) -> Configuration:
        found.append(Configuration(**fields))
        return found[-1]

    monkeypatch.setattr(requests, "Configuration", noted)
    return found


def test_matrix_beyond_the_limit_is_refused_before_it_is_laid_out(laid_out: list[Configuration]) -> None:
    stressors = [{"kind": "int8"}, {"kind": "bfloat16"}]
    tuned = [{"name": "theirs", "edited_tuned": "local:x", "base_tuned": "local:y", "editor": "rome"}]
    editors = [{"name": "rome"}, {"name": "memit", "paraphrases": [0, 1], "paraphrase_source": "templates"}]
    seeds = list(range(8))
    trials = (3 * (20 + 2) + 1) * 8
    assert trials > MAX_TRIALS
    with pytest.raises(ValidationError, match=f"{trials} trials"):
        AuditRequest.model_validate(body(stressors=stressors, tuned=tuned, editors=editors, seeds=seeds))
    assert not laid_out
    request = AuditRequest.model_validate(
        body(stressors=stressors, tuned=tuned, editors=editors, seeds=seeds[:7], gate=[{"at_least": 0.5}])
    )
    assert len(request.configurations()) + len(request.stress_configurations()) == trials / 8


def test_matrix_is_laid_out_once_for_all_the_rules_of_the_gate(laid_out: list[Configuration]) -> None:
    AuditRequest.model_validate(body())
    assert len(laid_out) == len(FREEZE)
