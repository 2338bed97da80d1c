import pytest
from pydantic import ValidationError

from shared.editors import (
    CATALOGUE,
    ConstrainedFineTuningHyperparameters,
    EditorDescription,
    LayerNotInModel,
    MemitHyperparameters,
    SuppliedHyperparameters,
    default_layers,
)
from shared.editors.layers import LayersNotTraced


@pytest.mark.parametrize(
    ("block_count", "first", "last"),
    [(6, 1, 3), (28, 3, 8), (32, 4, 8), (44, 6, 10), (48, 13, 17), (4, 1, 2), (1, 0, 0)],
)
def test_default_layers_follow_the_published_ranges(block_count: int, first: int, last: int) -> None:
    assert default_layers(block_count) == tuple(range(first, last + 1))


@pytest.mark.parametrize("block_count", range(2, 130))
def test_default_layers_leave_a_block_above_them(block_count: int) -> None:
    assert default_layers(block_count)[-1] < block_count - 1


def test_layers_beyond_the_model_are_refused_by_number() -> None:
    with pytest.raises(LayerNotInModel, match="blocks 0 to 5, not 6"):
        MemitHyperparameters(layers=(2, 6)).edited_layers(6)


def test_layers_must_increase() -> None:
    with pytest.raises(ValidationError, match="increasing"):
        MemitHyperparameters(layers=(3, 3))


@pytest.mark.parametrize("layers", [[], (), "all", [-1], [True, 2], ["2"], [2.0]])
def test_layers_that_name_no_blocks_are_refused(layers: object) -> None:
    with pytest.raises(ValidationError):
        MemitHyperparameters.model_validate({"layers": layers})


def test_layers_left_to_tracing_are_told_as_they_were_given_and_are_none_yet() -> None:
    left = MemitHyperparameters.model_validate({"layers": "auto"})
    assert left.awaits_tracing
    assert left.model_dump(mode="json")["layers"] == "auto"
    assert MemitHyperparameters.model_validate(left.model_dump(mode="json")) == left
    with pytest.raises(LayersNotTraced, match="settled by causal tracing first"):
        left.edited_layers(6)


def test_layers_left_to_tracing_are_the_window_or_where_one_block_is_edited_the_peak() -> None:
    window, peak = (1, 2, 3), 2
    of_many = MemitHyperparameters.model_validate({"layers": "auto"})
    of_one = ConstrainedFineTuningHyperparameters.model_validate({"layers": "auto"})
    assert of_many.traced(6, window, peak).layers == (1, 2, 3)
    assert of_one.traced(6, window, peak).layers == (2,)


def test_without_a_trace_the_layers_are_those_by_depth() -> None:
    left = MemitHyperparameters.model_validate({"layers": "auto"})
    assert left.untraced() == MemitHyperparameters()


@pytest.mark.parametrize("layers", [None, (4,)])
def test_layers_that_were_not_left_to_tracing_stay(layers: tuple[int, ...] | None) -> None:
    given = MemitHyperparameters(layers=layers)
    assert not given.awaits_tracing
    assert given.traced(6, (1, 2, 3), 2) == given.untraced() == given


def test_the_schema_of_layers_allows_auto() -> None:
    choices = MemitHyperparameters.model_json_schema()["properties"]["layers"]["anyOf"]
    assert {"const": "auto", "type": "string"} in choices


def test_constrained_fine_tuning_writes_where_memit_writes_last() -> None:
    assert ConstrainedFineTuningHyperparameters().edited_layers(28) == (8,)


@pytest.mark.parametrize("description", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_hyperparameter_is_described_with_its_source(description: EditorDescription) -> None:
    for name, field in description.hyperparameters.model_fields.items():
        extra = field.json_schema_extra
        assert field.description, name
        assert isinstance(extra, dict), name
        assert extra["source"], name


# What an editor cannot do without.
NEEDED = {"supplied": {"checkpoint": "local:edited"}}


@pytest.mark.parametrize("description", CATALOGUE.values(), ids=list(CATALOGUE))
def test_defaults_are_within_their_own_bounds(description: EditorDescription) -> None:
    defaults = description.hyperparameters.model_validate(NEEDED.get(description.name, {}))
    assert description.hyperparameters.model_validate(defaults.model_dump()) == defaults


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_models_defaults_are_valid_and_give_way_to_what_the_request_says(name: str) -> None:
    editor, needed = CATALOGUE[name], NEEDED.get(name, {})
    assert editor.settle("local:another", needed) == editor.hyperparameters.model_validate(needed)
    for model, defaults in editor.model_defaults.items():
        assert editor.settle(model, {}) == editor.hyperparameters(**defaults)
        if "layers" in editor.hyperparameters.model_fields:
            assert editor.settle(model, {"layers": [0]}).layers == (0,)


@pytest.mark.parametrize("sources", [{}, {"checkpoint": "local:edited", "delta": "local:delta.safetensors"}])
def test_supplied_model_comes_from_one_place(sources: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either the edited model as 'checkpoint' or its 'delta'"):
        SuppliedHyperparameters(**sources)


@pytest.mark.parametrize("sources", [{"checkpoint": "/models/edited"}, {"delta": "hf:org/name"}])
def test_supplied_model_is_named_by_a_reference(sources: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        SuppliedHyperparameters(**sources)
