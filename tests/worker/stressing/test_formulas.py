"""Each formula against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from services.worker.stressing.footprint import Footprint
from services.worker.stressing.pruning import prune_by_magnitude
from services.worker.stressing.quantisation import int4_round_trip, int8_round_trip


def test_int8_rounds_to_127ths_of_the_largest_weight_of_each_output() -> None:
    weight = torch.tensor([[127.0, -63.4, 0.6], [0.0, 0.0, 0.0], [-2.54, 1.0, 0.011]])
    # second row: scale 1 instead of 0; third: s = 0.02, 1.0 is 50 steps, 0.011 half a step and rounds to 1
    expected = torch.tensor([[127.0, -63.0, 1.0], [0.0, 0.0, 0.0], [-2.54, 1.0, 0.02]])
    torch.testing.assert_close(int8_round_trip(weight), expected)


def test_int4_has_sixteen_levels_between_the_extremes_of_a_group_and_keeps_zero() -> None:
    weight = torch.tensor([[-5.0, 10.0, 0.4, 3.6, 2.0, 17.0, 0.0, 8.6]])
    # first group: s = 1, z = 5; second: its range takes in zero, s = 17 / 15
    s = 17 / 15
    expected = torch.tensor([[-5.0, 10.0, 0.0, 4.0, 2 * s, 17.0, 0.0, 8 * s]])
    torch.testing.assert_close(int4_round_trip(weight, 4, asymmetric=True), expected)


def test_int4_absmax_has_seven_levels_to_either_side() -> None:
    weight = torch.tensor([[-7.0, 3.4, 0.6, 1.4, 14.0]])
    expected = torch.tensor([[-7.0, 3.0, 1.0, 1.0, 14.0]])  # the last group is what is left over
    torch.testing.assert_close(int4_round_trip(weight, 4, asymmetric=False), expected)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_one_group_over_all_inputs_is_one_scale_per_channel(asymmetric: bool) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    whole = int4_round_trip(weight, 10, asymmetric=asymmetric)
    assert torch.equal(whole, int4_round_trip(weight, 1000, asymmetric=asymmetric))
    assert all(len(channel.unique()) <= 16 for channel in whole)


def test_half_precision_weights_come_back_in_their_dtype() -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert int8_round_trip(weight).dtype is torch.bfloat16
    assert torch.equal(int8_round_trip(weight), int8_round_trip(weight.float()).to(torch.bfloat16))


def test_pruning_takes_the_smallest_weights_of_the_whole_matrix() -> None:
    weight = torch.tensor([[0.1, -0.2, 3.0], [-0.1, 0.3, -4.0], [5.0, 6.0, 0.3]])
    # ⌊0.5 × 9⌋ = 4: both 0.1, then 0.2, then the first of the two 0.3
    expected = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -4.0], [5.0, 6.0, 0.3]])
    assert torch.equal(prune_by_magnitude(weight, 0.5), expected)


def test_footprint_adds_up_over_parameters() -> None:
    footprint = Footprint()
    footprint.note(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 3.0]))
    footprint.note(torch.tensor([4.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert footprint.changed_share == 0.5
    assert footprint.distance == pytest.approx(1.0)  # √(3² + 4²) / √(3² + 4²)
