import pytest
from pydantic import ValidationError

from shared.editors import (
    CATALOGUE,
    ConstrainedFineTuningHyperparameters,
    EditorDescription,
    LayerNotInModel,
    MemitHyperparameters,
    default_layers,
)


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


def test_constrained_fine_tuning_writes_where_memit_writes_last() -> None:
    assert ConstrainedFineTuningHyperparameters().edited_layers(28) == (8,)


@pytest.mark.parametrize("description", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_hyperparameter_is_described_with_its_source(description: EditorDescription) -> None:
    for name, field in description.hyperparameters.model_fields.items():
        extra = field.json_schema_extra
        assert field.description, name
        assert isinstance(extra, dict), name
        assert extra["source"], name


@pytest.mark.parametrize("description", CATALOGUE.values(), ids=list(CATALOGUE))
def test_defaults_are_within_their_own_bounds(description: EditorDescription) -> None:
    defaults = description.hyperparameters()
    assert description.hyperparameters.model_validate(defaults.model_dump()) == defaults


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_models_defaults_are_valid_and_give_way_to_what_the_request_says(name: str) -> None:
    editor = CATALOGUE[name]
    assert editor.settle("local:another", {}) == editor.hyperparameters()
    for model, defaults in editor.model_defaults.items():
        assert editor.settle(model, {}) == editor.hyperparameters(**defaults)
        assert editor.settle(model, {"layers": [0]}).layers == (0,)
