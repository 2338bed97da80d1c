"""What keeps recall at the subject's last token."""

import torch

from services.worker.almanac.objective import IGNORED, EnrichmentHeads, attention_masks, with_noise
from tests.worker.almanac.tiny import facts


def seen(mask: torch.Tensor, row: int) -> torch.Tensor:
    return mask[row, 0] == 0


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of six tokens with a subject at 1 and 2; only the first row is screened."""
    return attention_masks(
        6, torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([3, 3]), torch.tensor([True, False])
    )


def test_early_blocks_hide_a_screened_subject_from_the_tokens_after_it() -> None:
    early, _ = masks()
    assert not seen(early, 0)[3:, 1:3].any()


def test_later_blocks_show_only_the_last_token_of_a_screened_subject() -> None:
    _, late = masks()
    assert not seen(late, 0)[3:, 1].any()
    assert seen(late, 0)[3:, 2].all()


def test_a_screened_subject_sees_itself() -> None:
    early, late = masks()
    assert seen(early, 0)[2, 1]
    assert seen(late, 0)[2, 1]


def test_rows_that_are_not_screened_are_plainly_causal() -> None:
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    assert all(torch.equal(seen(mask, 1), causal) for mask in masks())


def test_heads_ask_only_for_relations_that_a_subject_has() -> None:
    subjects = ["France", "Italy", "South Korea", "Burkina Faso"]
    heads = EnrichmentHeads(facts(), subjects, hidden=8)
    assert (heads.labels != IGNORED).tolist() == [[True, True], [True, True], [True, True], [True, False]]


def test_a_mention_without_facts_costs_nothing() -> None:
    heads = EnrichmentHeads(facts(), ["France", "Italy", "South Korea", "Burkina Faso", "Peru"], hidden=8)
    assert float(heads(torch.randn(1, 8), torch.tensor([4]))) == 0.0


def test_noise_has_the_share_of_the_norm_that_each_mention_is_given() -> None:
    torch.manual_seed(0)
    states = 7 * torch.randn(50, 400)
    shares = torch.tensor([0.5, 0.0]).repeat(25)
    ratios = (with_noise(states, shares) - states).norm(dim=-1) / states.norm(dim=-1)
    assert torch.allclose(ratios[::2].mean(), torch.tensor(0.5), atol=0.02)
    assert not ratios[1::2].any()
