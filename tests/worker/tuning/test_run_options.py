"""What a recipe says of the run itself: how it is computed, and when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from services.worker.tuning import run as run_module
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.freezing import NOTHING
from services.worker.tuning.trainer import training_arguments
from services.worker.tuning.updates import trainable
from shared.recipes import Recipe
from tests.worker.tuning.interruptions import Seen, interrupted, uninterrupted
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of
from tests.worker.tuning.updates.table import UPDATES

KINDS = ["full", "lora", "prompt_tuning"]


def test_accumulated_gradients_are_the_run_in_micro_batches(tmp_path: Path) -> None:
    model, chosen = tiny_language_model(), recipe(gradient_accumulation=4)
    outcome = run(model, chosen, tmp_path)
    assert outcome.micro_batch == 1
    assert outcome.losses == run(model, recipe(), tmp_path, micro_batch=1).losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_activations_computed_again_are_the_same(tmp_path: Path, family: str, kind: str) -> None:
    model, chosen = tiny_language_model(family), recipe(update=UPDATES[kind], steps=3)
    passes: list[bool] = []
    attention = model.model.get_submodule(model.anatomy.attentions[0])
    attention.register_forward_hook(lambda module, given, output: passes.append(module.training))
    expected, once = uninterrupted(model, chosen, tmp_path), passes.count(True)
    again = chosen.model_copy(update={"gradient_checkpointing": True})
    uninterrupted(model, again, tmp_path).check_equal(expected)
    assert passes.count(True) == 3 * once
    assert not model.model.is_activation_checkpointing


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_is_that_of_the_training_and_not_of_the_probes(
    tmp_path: Path, dtype: torch.dtype, kind: str
) -> None:
    model = tiny_language_model(dtype=dtype)
    computed: set[tuple[bool, torch.dtype]] = set()
    path = model.anatomy.mlp_down_projections[0]

    def watch(module: torch.nn.Module, given: Any, output: torch.Tensor) -> None:
        computed.add((module.training, output.dtype))

    handle = model.model.get_submodule(path).register_forward_hook(watch)
    for precision, trained in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        computed.clear()
        chosen = recipe(update=UPDATES[kind], steps=1, precision=precision)
        run(model, chosen, tmp_path, probe=lambda step: model.model(torch.tensor([[5, 6, 7]])) and None)
        assert computed == {(True, trained), (False, dtype)}
    handle.remove()


def test_weights_beside_what_learns_are_float32_where_the_run_is_to_be() -> None:
    model = tiny_language_model(dtype=torch.bfloat16)
    with trainable(model, UPDATES["lora"], NOTHING, "float32"):
        assert model.dtype is torch.float32
    assert model.dtype is torch.bfloat16


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.25, 2), (1.0, 6)])
def test_warm_up_may_be_a_share_of_the_steps(tmp_path: Path, share: float, steps: int) -> None:
    arguments = training_arguments(recipe(warmup_share=share), 1, 0, torch.device("cpu"), tmp_path)
    assert arguments.warmup_steps == steps


def ending_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Recipe:
    """A recipe of eight steps whose held-out loss is found low enough after this one, a multiple of two."""
    looks = iter([4.0] * (step // 2) + [1.0] * 10)  # before the run, and then at every other step
    monkeypatch.setattr("services.worker.tuning.tasks.held_out_loss", lambda *_, **__: next(looks))
    return recipe(steps=8, batch_size=2, probe_count=2, early_stop_loss=2.0, early_stop_every=2)


def test_run_ends_where_the_loss_is_reached_and_is_probed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chosen = tiny_language_model(), ending_after(monkeypatch, 4)
    before, events = weights_of(model), list[tuple[str, int]]()
    outcome = run_module.tune(
        model,
        chosen,
        chosen.data.records or (),
        seed=0,
        probe=lambda step: events.append(("probe", step)),
        progress=lambda step, steps, loss: None,
        stopping=lambda step: events.append(("stopping", step)),
        finished=lambda: events.append(("finished", 0)),
        workdir=tmp_path,
    )
    assert events == [("probe", 1), ("stopping", 4), ("probe", 4), ("finished", 0)]
    assert (len(outcome.losses), outcome.held_out_loss_after) == (4, 1.0)
    assert changed(before, weights_of(model)) == set()


def test_run_that_is_ending_is_finished_rather_than_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, seen = ending_after(monkeypatch, 4), Seen()
    leaving = Continuation(asked_to_hand_over=lambda: seen.step == 4)
    seen.tune(tiny_language_model(), chosen, tmp_path, continuation=leaving)
    assert seen.outcome is not None
    assert len(seen.outcome.losses) == 4


def test_run_that_is_left_and_resumed_ends_at_the_same_step(tmp_path: Path) -> None:
    model = tiny_language_model()
    plain = recipe(steps=12, batch_size=2, probe_count=1, schedule="constant")
    losses = run(model, plain, tmp_path)
    target = (losses.held_out_loss_before + losses.held_out_loss_after) / 2
    chosen = plain.model_copy(update={"early_stop_loss": target, "early_stop_every": 3})
    expected = uninterrupted(model, chosen, tmp_path)
    assert expected.outcome is not None
    assert len(expected.outcome.losses) in {3, 6, 9}
    assert expected.outcome.held_out_loss_after <= target
    interrupted(model, chosen, tmp_path, (2,)).check_equal(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gradient_accumulation": 3}, "3 parts do not make up a batch of 4"),
        ({"warmup_share": 0.1, "warmup_steps": 2}, "warmup_share: give it or 'warmup_steps'"),
        (
            {"gradient_checkpointing": True, "update": {"kind": "prefix_tuning"}},
            "gradient_checkpointing: keys and values",
        ),
    ],
)
def test_run_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        recipe(**changes)
