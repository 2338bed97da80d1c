from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    MistralConfig,
    MptConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from services.worker.language_models.anatomy import find_anatomy
from services.worker.language_models.batching import pad
from services.worker.language_models.continuation import begin, can_continue, run_and_cut
from services.worker.language_models.taps import (
    Tap,
    blocks_return_tuples,
    moved_outputs,
    passes_straight_through,
    read_taps,
    replayed_blocks,
)
from tests.worker.tiny_models import CONFIGS, LLAMA_LIKE, TOKEN_IDS, VOCABULARY_SIZE, tiny_model

ROUNDING = 1e-4

SMALL = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_attention_heads": 4}
# Beside the families that are edited: positions read off the mask, windows, outputs changed in place.
OTHERS: dict[str, PreTrainedConfig] = {
    "bloom": BloomConfig(**SMALL, n_layer=4, **TOKEN_IDS),
    "falcon": FalconConfig(**SMALL, num_hidden_layers=4, **TOKEN_IDS),
    "falcon with alibi": FalconConfig(**SMALL, num_hidden_layers=4, alibi=True, **TOKEN_IDS),
    "mpt": MptConfig(
        vocab_size=VOCABULARY_SIZE, d_model=32, n_layers=4, n_heads=4, max_seq_len=64, **TOKEN_IDS
    ),
    "mistral with a window": MistralConfig(**LLAMA_LIKE, sliding_window=3, **TOKEN_IDS),
}
FAMILIES = [*CONFIGS, *OTHERS]

WHOLE = pad([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]], 0, "right")
CUTS = torch.tensor([4, 0, 3])
ENDS = [(0, 4, 7), (1, 0, 3), (2, 3, 5)]  # row, first position, end


def model_of(family: str) -> PreTrainedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, family, {**OTHERS, **CONFIGS}[family])
        return tiny_model(family)


def logits_of_ends(model: PreTrainedModel, arguments: dict[str, Any]) -> torch.Tensor:
    logits = model(**arguments).logits
    return torch.cat([logits[row, : end - first] for row, first, end in ENDS])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, 0, 2])
@torch.no_grad()
def test_ends_are_answered_as_in_their_sequences(family: str, layer: int) -> None:
    model = model_of(family)
    anatomy = find_anatomy(model)
    assert can_continue(model, anatomy)
    logits = model(**WHOLE.forward_arguments(model), use_cache=False).logits
    expected = torch.cat([logits[row, first:end] for row, first, end in ENDS])
    taps = [Tap(anatomy.blocks[layer], "output")] if layer >= 0 else []
    continuation, read = begin(model, anatomy, WHOLE, CUTS, layer + 1, taps)
    outputs = None
    if taps:
        whole = read[taps[0]]
        outputs = torch.zeros(3, 3, whole.shape[2])
        for row, first, end in ENDS:
            outputs[row, : end - first] = whole[row, first:end]
    with replayed_blocks(model, anatomy, layer, outputs, in_tuple=blocks_return_tuples(model, anatomy)):
        first_time = logits_of_ends(model, continuation.forward_arguments(model))
        again = logits_of_ends(model, continuation.forward_arguments(model))
    assert torch.allclose(first_time, expected, atol=ROUNDING * float(expected.abs().max()))
    assert torch.equal(again, first_time)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@torch.no_grad()
def test_rows_that_are_kept_are_answered_as_before(family: str) -> None:
    model = model_of(family)
    continuation, _ = begin(model, find_anatomy(model), WHOLE, CUTS, 0)
    expected = model(**continuation.forward_arguments(model)).logits[[2, 0]]
    kept = continuation.keep(torch.tensor([2, 0]))
    assert torch.allclose(model(**kept.forward_arguments(model)).logits, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_sequences_can_be_cut_again_further_on(family: str) -> None:
    model = model_of(family)
    anatomy = find_anatomy(model)
    logits = model(**WHOLE.forward_arguments(model), use_cache=False).logits
    expected = torch.cat([logits[row, first:end] for row, first, end in ENDS])
    first_cuts = torch.tensor([3, 0, 1])
    first, _ = begin(model, anatomy, WHOLE, first_cuts, 0)
    second, _ = run_and_cut(model, anatomy, first, CUTS - first_cuts, range(4))
    answered = logits_of_ends(model, second.forward_arguments(model))
    assert torch.allclose(answered, expected, atol=ROUNDING * float(expected.abs().max()))


@torch.no_grad()
def test_nothing_is_kept_where_nothing_comes_before() -> None:
    model = tiny_model("llama")
    continuation, _ = begin(model, find_anatomy(model), WHOLE, torch.zeros_like(CUTS), 0)
    assert not continuation.kept
    assert torch.equal(continuation.ends.input_ids * continuation.ends.attention_mask, WHOLE.input_ids)


def test_only_blocks_that_will_run_keep_anything() -> None:
    model = tiny_model("gpt2")
    continuation, _ = begin(model, find_anatomy(model), WHOLE, CUTS, 2)
    assert continuation.kept.keys() == {2, 3}
    assert all(keys.shape == (3, 4, 4, 8) for keys, _ in continuation.kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_does_not_speak_against_a_model(dtype: torch.dtype) -> None:
    model = tiny_model("llama").to(dtype)
    assert can_continue(model, find_anatomy(model))


def test_a_model_that_is_wrong_about_positions_cannot_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    forward = model.forward

    def counts_from_zero(past_key_values: Any = None, **arguments: Any) -> Any:
        arguments.pop("position_ids", None)
        positions = torch.arange(arguments["input_ids"].shape[1])[None]
        return forward(past_key_values=past_key_values, position_ids=positions, **arguments)

    assert can_continue(model, find_anatomy(model))
    monkeypatch.setattr(model, "forward", counts_from_zero)
    assert not can_continue(model, find_anatomy(model))


def test_a_model_that_keeps_nothing_cannot_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    forward = model.forward

    def forgets(past_key_values: Any = None, **arguments: Any) -> Any:
        return forward(**arguments)

    monkeypatch.setattr(model, "forward", forgets)
    assert not can_continue(model, find_anatomy(model))
    monkeypatch.setattr(model, "forward", lambda input_ids, attention_mask: forward(input_ids))
    assert not can_continue(model, find_anatomy(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_passes_straight_through_moves_the_output_by_as_much(family: str) -> None:
    model = model_of(family)
    anatomy = find_anatomy(model)
    block = Tap(anatomy.blocks[1], "output")
    change = torch.linspace(-1, 1, 32)[None]
    for path in (anatomy.blocks[1], anatomy.mlp_down_projections[1], anatomy.attentions[1]):
        before = read_taps(model, WHOLE, [block])[block]
        with moved_outputs(model, [path], torch.tensor([2]), change[None]):
            after = read_taps(model, WHOLE, [block])[block]
        moved = before.clone()
        moved[0, 2] += change[0]
        assert torch.allclose(after, moved, atol=ROUNDING) == passes_straight_through(model, anatomy, 1, path)
