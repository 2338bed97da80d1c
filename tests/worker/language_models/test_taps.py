import pytest
import torch

from services.worker.language_models.anatomy import find_anatomy
from services.worker.language_models.batching import TokenBatch, pad
from services.worker.language_models.taps import (
    Tap,
    blocks_return_tuples,
    head_reading,
    read_taps,
    replayed_blocks,
)
from tests.worker.tiny_models import CONFIGS, tiny_model

BATCH = pad([[5, 6, 7, 8, 9], [10, 11, 12]], 0, "left")


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("layer", [0, 2, 3])
@torch.no_grad()
def test_replaying_blocks_gives_the_logits_of_running_them(family: str, layer: int) -> None:
    model = tiny_model(family)
    anatomy = find_anatomy(model)
    expected = model(**BATCH.forward_arguments(model)).logits
    output = read_taps(model, BATCH, [tap := Tap(anatomy.blocks[layer], "output")])[tap]
    in_tuple = blocks_return_tuples(model, anatomy)
    with replayed_blocks(model, anatomy, layer, output, in_tuple=in_tuple):
        assert torch.equal(model(**BATCH.forward_arguments(model)).logits, expected)


@torch.no_grad()
def test_replayed_blocks_run_again_afterwards() -> None:
    model = tiny_model("llama")
    anatomy = find_anatomy(model)
    expected = model(**BATCH.forward_arguments(model)).logits
    with replayed_blocks(model, anatomy, 2, torch.zeros(2, 5, 32), in_tuple=False):
        assert not torch.equal(model(**BATCH.forward_arguments(model)).logits, expected)
    assert torch.equal(model(**BATCH.forward_arguments(model)).logits, expected)


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_head_reads_only_the_chosen_hidden_states(family: str) -> None:
    model = tiny_model(family)
    rows, columns = torch.tensor([1, 0, 0]), torch.tensor([4, 2, 0])
    expected = model(**BATCH.forward_arguments(model)).logits[rows, columns]
    with head_reading(model, find_anatomy(model), rows, columns):
        read = model(**BATCH.forward_arguments(model)).logits
    assert read.shape == (1, 3, expected.shape[1])
    assert torch.allclose(read[0], expected, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_taps_read_one_row_of_width_per_token(family: str) -> None:
    model = tiny_model(family)
    down_projection = find_anatomy(model).mlp_down_projections[1]
    taps = [Tap(down_projection, "input"), Tap(down_projection, "output")]
    keys, values = read_taps(model, BATCH, taps).values()
    assert keys.shape[:2] == BATCH.input_ids.shape
    assert values.shape == (2, 5, 32)


def test_later_blocks_are_not_run() -> None:
    model = tiny_model("gpt2")
    blocks = find_anatomy(model).blocks
    ran: list[int] = []
    for index, path in enumerate(blocks):
        model.get_submodule(path).register_forward_pre_hook(lambda _module, _args, i=index: ran.append(i))
    read_taps(model, BATCH, [Tap(blocks[1], "output")])
    assert ran == [0, 1]


def test_a_tap_on_a_module_that_is_never_run_is_refused() -> None:
    model = tiny_model("gpt2")
    model.idle = torch.nn.Linear(2, 2)
    batch = TokenBatch(BATCH.input_ids, BATCH.attention_mask)
    with pytest.raises(ValueError, match="idle"):
        read_taps(model, batch, [Tap("idle", "input")])
