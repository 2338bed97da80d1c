"""Which token gets an entry of its own, how far entries reach, and who waits for whom."""

import pytest
import torch

from services.worker.editing.codebook_growth import MARGIN, Growth, grow


def grown(*tokens: tuple[float, int], first_radius: float = 1.0) -> Growth:
    """Edits of one token each, whose keys lie on a line: (place, label)."""
    return grow(
        [torch.tensor([[place, 0.0]]) for place, _ in tokens], [[label] for _, label in tokens], first_radius
    )


def radii(growth: Growth) -> list[float]:
    return [round(radius, 6) for radius in growth.entries.radii.tolist()]


def test_tokens_far_from_each_other_get_entries_of_their_own() -> None:
    growth = grown((0.0, 7), (5.0, 7))
    assert growth.answering == [[0], [1]]
    assert radii(growth) == [1.0, 1.0]


def test_an_entry_reaches_out_for_a_token_with_the_same_label() -> None:
    growth = grown((0.0, 7), (1.5, 7))
    assert growth.answering == [[0], [0]]
    assert radii(growth) == pytest.approx([1.5 * MARGIN])


def test_an_entry_does_not_shrink_for_a_token_it_reaches_already() -> None:
    assert radii(grown((0.0, 7), (0.5, 7))) == [1.0]


def test_entries_with_different_labels_share_the_distance_between_them() -> None:
    growth = grown((0.0, 7), (1.5, 8))
    assert growth.answering == [[0], [1]]
    assert radii(growth) == [0.75, 0.75]


def test_no_entry_grows_by_being_split() -> None:
    growth = grown((0.0, 7), (0.2, 8), (-0.9, 9))
    assert radii(growth) == [0.1, 0.1, 0.45]


def test_each_token_of_a_target_is_put_in_after_the_one_before_it() -> None:
    keys = torch.tensor([[0.0, 0.0], [0.5, 0.0], [9.0, 0.0]])
    growth = grow([keys], [[7, 7, 8]], 1.0)
    assert growth.answering == [[0, 0, 1]]
    assert growth.makers == [(0, 0), (0, 2)]
    assert growth.made_by(0) == [0, 1]


def test_an_edit_waits_for_those_whose_entries_answer_for_it() -> None:
    keys = [
        torch.tensor([[0.0, 0.0]]),
        torch.tensor([[0.1, 0.0], [9.0, 0.0]]),
        torch.tensor([[9.1, 0.0]]),
        torch.tensor([[20.0, 0.0]]),
    ]
    growth = grow(keys, [[7], [7, 8], [8], [7]], 1.0)
    assert growth.waves() == [[0, 3], [1], [2]]


def test_queries_find_the_nearest_entry_and_its_distance_however_far_from_the_origin() -> None:
    growth = grown((1_000.0, 7), (1_003.0, 8))
    nearest, distances = growth.entries.nearest(torch.tensor([[[1_000.25, 0.0], [1_002.5, 0.0]]]))
    assert nearest.tolist() == [[0, 1]]
    assert distances.flatten().tolist() == pytest.approx([0.25, 0.5])
