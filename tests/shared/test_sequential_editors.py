import pytest
from pydantic import ValidationError

from shared.editors import (
    ALMANAC,
    CATALOGUE,
    AlphaEditHyperparameters,
    BatchesDoNotFit,
    UltraEditHyperparameters,
)


def test_edits_are_one_batch_unless_said_otherwise() -> None:
    assert AlphaEditHyperparameters().ranges(7) == ((0, 7),)


def test_a_batch_size_leaves_a_smaller_last_batch() -> None:
    assert AlphaEditHyperparameters(batch_size=3).ranges(7) == ((0, 3), (3, 6), (6, 7))


def test_batches_go_before_the_batch_size() -> None:
    settings = UltraEditHyperparameters(batches=((0, 5), (5, 7)))
    assert settings.batch_size == 100
    assert settings.ranges(7) == ((0, 5), (5, 7))


def test_batches_must_cover_the_edits_there_are() -> None:
    settings = AlphaEditHyperparameters(batches=((0, 6), (6, 12)))
    assert settings.ranges(12) == ((0, 6), (6, 12))
    with pytest.raises(BatchesDoNotFit, match="cover 12 edits of 13"):
        settings.ranges(13)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batches": [[1, 4]]}, "must start at 0"),
        ({"batches": [[0, 4], [5, 6]]}, "each where the one before it ends"),
        ({"batches": [[0, 4], [3, 6]]}, "each where the one before it ends"),
        ({"batches": [[0, 4], [4, 4]]}, "none may be empty"),
    ],
)
def test_batches_out_of_order_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        AlphaEditHyperparameters.model_validate(settings)


def test_the_published_spelling_of_a_setting_overrides_a_default_too() -> None:
    for spelling in ("nullspace_threshold", "null_space_threshold"):
        settled = CATALOGUE["alphaedit"].settle(ALMANAC, {spelling: 0.7})
        assert isinstance(settled, AlphaEditHyperparameters)
        assert settled.null_space_threshold == 0.7
