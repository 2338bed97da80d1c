"""What a request says is frozen has one form, and what has none is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.recipes import Freeze, Recipe
from shared.requests import Configuration, GateRule

RECIPE: dict[str, Any] = {
    "name": "plain",
    "objective": "causal_lm",
    "data": {"source": "builtin:docstrings"},
}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        (" edited ", "edited"),
        ("edited±0", "edited"),
        ("edited+-2", "edited±2"),
        ("edited±02", "edited±2"),
        ("all_but_edited", "all_but_edited"),
        ("layers:5,3, 4,0,0", "layers:0,3-5"),
        ("layers:2-2", "layers:2"),
        ("parameters:*.mlp.*, *.bias,*.bias", "parameters:*.bias,*.mlp.*"),
    ],
)
def test_every_freezing_has_one_form(text: str, canonical: str) -> None:
    assert Freeze(text) == canonical
    assert Freeze(Freeze(text)) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not one of 'none'"),
        ("everything", "not one of 'none'"),
        ("edited±", "not one of"),
        ("edited-1", "not one of"),
        ("layers:", "'' is neither the index"),
        ("layers:1;2", "'1;2' is neither the index"),
        ("layers:5-3", "ends before it begins"),
        ("layers:99999", "neither the index"),
        ("parameters:", "'' is no glob"),
        ("parameters:(a+)+", "is no glob"),
        ("parameters:<b>", "is no glob"),
    ],
)
def test_text_of_no_form_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValidationError, match="freeze") as caught:
        Recipe.model_validate({**RECIPE, "freeze": [text]})
    assert reason in str(caught.value)


def test_parts_of_a_freezing_can_be_told() -> None:
    assert [Freeze(text).kind for text in ("none", "edited±3", "all_but_edited")] == [
        "none",
        "edited",
        "all_but_edited",
    ]
    assert Freeze("edited±3").margin == 3
    assert Freeze("layers:0,3-5").layers == (0, 3, 4, 5)
    assert Freeze("parameters:b,a*").globs == ("a*", "b")
    assert [
        text for text in ("none", "edited±3", "all_but_edited", "layers:1") if Freeze(text).follows_edits
    ] == [
        "edited±3",
        "all_but_edited",
    ]


def test_variant_named_twice_in_different_words_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Recipe.model_validate({**RECIPE, "freeze": ["edited±1", "edited+-1"]})


def test_gate_rule_selects_by_meaning() -> None:
    configuration = Configuration(editor="memit", paraphrases=0, recipe="plain", freeze=Freeze("layers:1-3"))
    rule = GateRule.model_validate({"at_least": 0.5, "freeze": "layers:3,1,2"})
    assert rule.selects(configuration)
    assert not rule.model_copy(update={"freeze": Freeze("layers:1-2")}).selects(configuration)


def test_configuration_survives_json() -> None:
    configuration = Configuration(editor="memit", paraphrases=0, recipe="plain", freeze=Freeze("edited±1"))
    read = Configuration.model_validate_json(configuration.model_dump_json())
    assert read == configuration
    assert isinstance(read.freeze, Freeze)
    assert str(read).endswith("freeze=edited±1")


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_freezing_is_refused_where_no_weight_changes(kind: str) -> None:
    Recipe.model_validate({**RECIPE, "update": {"kind": kind}})
    with pytest.raises(ValidationError, match=f"'{kind}' changes no weights"):
        Recipe.model_validate({**RECIPE, "update": {"kind": kind}, "freeze": ["none", "edited"]})


@pytest.mark.parametrize("kind", ["full", "bitfit", "qlora", "prompt_tuning", "prefix_tuning"])
def test_updates_that_cannot_be_merged_do_not_take_the_option(kind: str) -> None:
    with pytest.raises(ValidationError, match="merged"):
        Recipe.model_validate({**RECIPE, "update": {"kind": kind, "merged": True}})
