import pytest
import torch

from services.worker.language_models.batching import (
    encode_prompts,
    encode_target,
    encode_texts,
    pad,
    split_by_tokens,
)
from tests.worker.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


def test_bos_is_kept_where_the_tokenizer_adds_it() -> None:
    plain, with_bos = tiny_tokenizer(), tiny_tokenizer(adds_bos=True)
    assert encode_prompts(with_bos, ["Ada lives"]) == [[0, *encode_prompts(plain, ["Ada lives"])[0]]]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_eos_ends_a_text_but_not_a_prompt(adds_bos: bool) -> None:
    plain, with_eos = tiny_tokenizer(adds_bos=adds_bos), tiny_tokenizer(adds_bos=adds_bos, adds_eos=True)
    prompts = ["Ada lives in", "Ada", "", f"Ada {with_eos.eos_token}"]
    assert encode_prompts(with_eos, prompts) == encode_prompts(plain, prompts)
    assert encode_texts(with_eos, prompts) == [[*ids, 0] for ids in encode_texts(plain, prompts)]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_target_has_the_same_ids_with_and_without_leading_space(adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    assert encode_target(tokenizer, "New York") == encode_target(tokenizer, " New York")


def test_target_ids_continue_a_prompt() -> None:
    tokenizer = tiny_tokenizer(adds_bos=True)
    whole = encode_prompts(tokenizer, ["Ada lives in New York"])[0]
    assert encode_prompts(tokenizer, ["Ada lives in"])[0] + encode_target(tokenizer, "New York") == whole


def test_position_ids_count_tokens_of_the_row_under_left_padding() -> None:
    batch = pad(SEQUENCES, 0, "left")
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1], [0, 0, 0, 1, 2]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_point_at_the_same_tokens_under_either_padding(side: str) -> None:
    batch = pad(SEQUENCES, 0, side)
    columns = batch.columns(torch.tensor([1, 1, 2]))
    assert batch.input_ids.gather(1, columns[:, None])[:, 0].tolist() == [6, 11, 14]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_gives_the_logits_of_single_sequences(family: str, side: str) -> None:
    model = tiny_model(family)
    batch = pad(SEQUENCES, 0, side)
    with torch.no_grad():
        logits = model(**batch.forward_arguments(model)).logits
        for row, sequence in enumerate(SEQUENCES):
            alone = model(input_ids=torch.tensor([sequence])).logits[0]
            start = int(batch.starts[row])
            assert torch.allclose(logits[row, start : start + len(sequence)], alone, atol=1e-4)


def test_token_budget_bounds_the_padded_size_of_every_batch() -> None:
    lengths = [3, 9, 4, 4, 8, 2]
    batches = split_by_tokens(lengths, token_budget=16)
    assert all(len(batch) * max(lengths[index] for index in batch) <= 16 for batch in batches)


def test_every_item_is_in_exactly_one_batch_even_above_the_budget() -> None:
    batches = split_by_tokens([30, 2, 2], token_budget=8, rows=[6, 6, 1])
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2]
