"""Masks of shards, and what becomes of their changes when they are merged."""

import pytest
import torch

from services.worker.editing.shards import random_masks, ties_merged, trim

SHAPE = torch.Size([100, 200])


def test_masks_leave_about_the_share_they_are_asked_for() -> None:
    for mask in random_masks(SHAPE, 2, 0.2, seed=0):
        assert float(mask.float().mean()) == pytest.approx(0.2, abs=0.01)


def test_masks_are_drawn_independently_and_the_same_every_time() -> None:
    first, second = random_masks(SHAPE, 2, 0.2, seed=0)
    assert float((first & second).float().mean()) == pytest.approx(0.04, abs=0.01)
    assert all(
        torch.equal(*pair) for pair in zip(random_masks(SHAPE, 2, 0.2, seed=0), (first, second), strict=True)
    )


def test_changes_in_different_places_are_kept_as_they_are() -> None:
    merged = ties_merged([torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, -2.0, 0.0]])], 1.0)
    assert merged.tolist() == [[1.0, -2.0, 0.0]]


def test_changes_that_agree_are_averaged() -> None:
    assert ties_merged([torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([0.0])], 1.0).tolist() == [2.0]


def test_where_changes_disagree_the_heavier_side_counts_alone() -> None:
    changes = [torch.tensor([-3.0]), torch.tensor([1.0]), torch.tensor([1.5])]
    assert ties_merged(changes, 1.0).tolist() == [-3.0]


def test_one_change_is_only_trimmed() -> None:
    change = torch.tensor([[0.1, -4.0], [3.0, 0.2]])
    assert torch.equal(ties_merged([change], 0.5), trim(change, 0.5))


def test_trimming_keeps_the_numbers_of_largest_size() -> None:
    assert trim(torch.tensor([[0.1, -4.0], [3.0, 0.2]]), 0.5).tolist() == [[0.0, -4.0], [3.0, 0.0]]
