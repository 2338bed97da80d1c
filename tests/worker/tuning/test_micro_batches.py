"""Smaller micro-batches change how much memory a step takes, and nothing else but rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from services.worker.language_models.loading import LanguageModel
from services.worker.tuning.errors import MicroBatchTooLarge
from services.worker.tuning.micro_batches import smaller_micro_batch
from shared.recipes import FullUpdate, LoraUpdate, Objective, Recipe, Update
from tests.worker.tuning.interruptions import Seen, uninterrupted
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of

RELATIVE = 1e-5  # float32 sums in another order; of a gradient, relative to its largest entry


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(6, [3, 1]), (8, [4, 2, 1]), (7, [1]), (12, [6, 3, 1]), (15, [5, 1]), (20, [10, 5, 2, 1]), (1, [])],
)
def test_micro_batches_are_divisors_that_are_halved_at_least(batch_size: int, sizes: list[int]) -> None:
    found, size = [], smaller_micro_batch(batch_size, batch_size)
    while size is not None:
        found.append(size)
        size = smaller_micro_batch(batch_size, size)
    assert found == sizes


def test_micro_batches_are_not_made_smaller_than_gives_any_process_less_to_do() -> None:
    assert smaller_micro_batch(12, 12, processes=4) == 6  # two each, in place of three
    assert smaller_micro_batch(12, 6, processes=4) == 3
    assert smaller_micro_batch(12, 3, processes=4) is None
    assert smaller_micro_batch(6, 3, processes=2) == 1


def unclipped(objective: Objective, batch_size: int) -> Recipe:
    """Several epochs whose gradients are neither clipped nor moved much; token counts are uneven."""
    return recipe(
        objective,
        batch_size=batch_size,
        sequence_length=8 if objective is Objective.CAUSAL_LM else 16,
        steps=5,
        learning_rate=1e-9,
        max_grad_norm=1e9,
        probe_count=3,
    )


def gradients(
    language_model: LanguageModel, chosen: Recipe, folder: Path, micro_batch: int
) -> list[list[torch.Tensor]]:
    """The gradients that the optimiser is given, at every step."""
    given: list[list[torch.Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        given.append([weight.grad.clone() for weight in weights if weight.grad is not None])

    handle = register_optimizer_step_pre_hook(keep)
    run(language_model, chosen, folder, micro_batch=micro_batch)
    handle.remove()
    return given


@pytest.mark.parametrize(
    ("batch_size", "micro_batch"), [(6, 3), (6, 2), (6, 1), (4, 2), (4, 1)]
)  # with 4, of six or of four sequences, epochs end with a step of 2, or not
@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("takes_counts", [True, False])  # models that do not are given their own loss's mean
def test_gradients_are_those_of_the_whole_batch(
    tmp_path: Path, takes_counts: bool, objective: Objective, batch_size: int, micro_batch: int
) -> None:
    model, chosen = tiny_language_model("llama"), unclipped(objective, batch_size)  # without dropout
    if not takes_counts:
        model.model.accepts_loss_kwargs = False
    whole = gradients(model, chosen, tmp_path, batch_size)
    parts = gradients(model, chosen, tmp_path, micro_batch)
    assert len(whole) == len(parts) == chosen.steps
    for expected, found in zip(whole, parts, strict=True):
        assert len(expected) == len(found) > 0
        for one, other in zip(expected, found, strict=True):
            assert (one - other).abs().max() <= RELATIVE * one.abs().max()


@pytest.mark.parametrize("micro_batch", [3, 1])
@pytest.mark.parametrize("objective", list(Objective))
def test_steps_tokens_and_probes_are_the_same_and_losses_differ_by_rounding(
    tmp_path: Path, objective: Objective, micro_batch: int
) -> None:
    model, chosen = tiny_language_model("llama"), unclipped(objective, 6)
    whole = uninterrupted(model, chosen, tmp_path)
    parts = uninterrupted(model, chosen, tmp_path, micro_batch=micro_batch)
    assert whole.outcome is not None
    assert parts.outcome is not None
    assert parts.outcome.tokens_seen == whole.outcome.tokens_seen
    assert parts.outcome.losses == pytest.approx(whole.outcome.losses, rel=RELATIVE)
    assert [step for step, _ in parts.probed] == [step for step, _ in whole.probed]
    assert (whole.outcome.micro_batch, parts.outcome.micro_batch) == (6, micro_batch)


@contextmanager
def memory_for(language_model: LanguageModel, sequences: int) -> Iterator[None]:
    """A model that, in training, runs out of memory on more than this many sequences at once."""

    def check(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if module.training and output.shape[0] > sequences:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    embedding = language_model.model.get_submodule(language_model.anatomy.embedding)
    handle = embedding.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("update", [FullUpdate(), LoraUpdate(rank=4)])
def test_too_large_micro_batch_is_named_and_the_model_is_restored(tmp_path: Path, update: Update) -> None:
    model, chosen = tiny_language_model(dtype=torch.bfloat16), recipe(update=update, sequence_length=8)
    before, seen = weights_of(model), Seen()
    with memory_for(model, 2), pytest.raises(MicroBatchTooLarge) as caught:
        seen.tune(model, chosen, tmp_path, micro_batch=4)
    assert caught.value.micro_batch == 4
    assert changed(before, weights_of(model)) == set()
    with memory_for(model, 2):
        seen.tune(model, chosen, tmp_path, micro_batch=2)
    assert seen.outcome is not None


def test_run_after_one_that_ran_out_of_memory_is_not_affected_by_it(tmp_path: Path) -> None:
    model, chosen = tiny_language_model(), recipe(sequence_length=8)
    expected = uninterrupted(model, chosen, tmp_path, micro_batch=2)
    with memory_for(model, 2), pytest.raises(MicroBatchTooLarge):
        uninterrupted(model, chosen, tmp_path)
    uninterrupted(model, chosen, tmp_path, micro_batch=2).check_equal(expected)


def test_memory_that_a_probe_lacks_is_not_blamed_on_the_micro_batch(tmp_path: Path) -> None:
    def probe(step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        run(tiny_language_model(), recipe(), tmp_path, probe=probe)
