"""What a request may ask its models, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.measurement import Mode, ProbeKind
from shared.probing import Probing
from shared.requests import AuditRequest
from tests.support.parity_audit import parity_request


def asked(**changes: Any) -> AuditRequest:
    return AuditRequest.model_validate(parity_request(**changes))


def rule(metric: str = "retention") -> dict[str, Any]:
    return {"metric": metric, "mode": "contains", "at_least": 0.5}


def test_by_default_what_edits_have_is_asked_and_own_prompts_are_continued() -> None:
    probing = asked().probing
    assert set(ProbeKind) - set(probing.kinds) == {ProbeKind.DISTRACTED, ProbeKind.NEGATED}
    assert (probing.contains_tokens, probing.fluency) == (20, False)


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [(["paraphrase"], "'rewrite' is missing"), (["rewrite", "rewrite"], "named twice")],
)
def test_kinds_hold_the_own_prompt_and_each_other_once(kinds: list[str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Probing.model_validate({"kinds": kinds})


def test_a_gate_may_ask_for_contains_where_it_is_scored() -> None:
    assert asked(gate=[rule()]).gate[0].mode is Mode.CONTAINS


def test_a_gate_may_not_ask_for_contains_where_nothing_is_generated() -> None:
    with pytest.raises(ValidationError, match=r"gate.0.mode: 'contains' needs 'probing.contains_tokens'"):
        asked(gate=[rule()], probing={"contains_tokens": None})
    with pytest.raises(ValidationError, match="neighbourhood prompts are not continued"):
        asked(gate=[rule("locality")])


@pytest.mark.parametrize("field", ["attribute", "negated"])
def test_prompts_of_the_new_kinds_must_be_complete(field: str) -> None:
    body = parity_request()
    body["edits"][0][field] = ["The capital of {} is"]
    with pytest.raises(ValidationError, match="write the subject out"):
        AuditRequest.model_validate(body)
