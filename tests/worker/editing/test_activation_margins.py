import pytest
import torch

from services.worker.editing.activation_margins import Margins, distances, mean_of_positive

MARGINS = Margins(alpha=1.0, beta=4.0, gamma=2.0)


def test_margins_that_are_kept_cost_nothing() -> None:
    irrelevant, edited = torch.tensor([0.5, 1.0]), torch.tensor([4.0, 9.0])
    assert float(MARGINS.excess(irrelevant)) == 0
    assert MARGINS.shortfall(edited, irrelevant).tolist() == [0, 0]


def test_irrelevant_tokens_are_averaged_over_those_that_differ_too_much() -> None:
    assert float(MARGINS.excess(torch.tensor([0.0, 2.0, 4.0]))) == pytest.approx(2.0)


def test_edits_answer_for_both_margins_each_for_itself() -> None:
    irrelevant = torch.tensor([0.0, 1.0, 3.0])
    # 3 is 1 short of β, and comes within γ of 3 by 2 and of 1 by 0; 6 keeps both.
    assert MARGINS.shortfall(torch.tensor([3.0, 6.0]), irrelevant).tolist() == pytest.approx([3.0, 0.0])


def test_distances_are_those_of_what_is_put_out() -> None:
    generator = torch.Generator().manual_seed(0)
    main, change = (torch.randn(5, 7, generator=generator) for _ in range(2))
    activations = torch.randn(3, 7, generator=generator)
    expected = (activations @ (main + change).T - activations @ main.T).norm(dim=-1)
    assert torch.allclose(distances(change, activations), expected, atol=1e-5)


def test_where_nothing_moves_yet_gradients_are_finite() -> None:
    change = torch.zeros(5, 7, requires_grad=True)
    MARGINS.shortfall(distances(change, torch.ones(2, 7)), torch.zeros(3)).sum().backward()
    assert change.grad is not None
    assert torch.equal(change.grad, torch.zeros(5, 7))


def test_the_mean_of_no_positive_value_is_zero() -> None:
    assert mean_of_positive(torch.tensor([[-1.0, 0.0], [2.0, -7.0]])).tolist() == [0.0, 2.0]
