"""A training run learns, repeats itself, is not disturbed by probes, and leaves the model as it was."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from services.worker.tuning import tasks
from services.worker.tuning.errors import RecipeDoesNotFit, TrainingDiverged
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.objectives import packed_texts
from shared.recipes import FullUpdate, LoraUpdate, Objective, TrainingData, Update, log_spaced_steps
from tests.worker.tuning.models import (
    TEXTS,
    changed,
    recipe,
    run,
    text_records,
    tiny_language_model,
    tuned_weights,
    weights_of,
)

UPDATES = [FullUpdate(), LoraUpdate(rank=4, dropout=0.1)]


def disturb(step: int) -> None:
    """Draw from every random generator, as a careless probe would."""
    random.seed(step)
    np.random.seed(step)
    torch.manual_seed(step)
    torch.rand(3)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_loss_falls_when_a_few_records_are_learnt_by_heart(
    tmp_path: Path, family: str, objective: Objective, update: Update
) -> None:
    chosen = recipe(objective, update=update, steps=40, schedule="constant")
    outcome = run(tiny_language_model(family), chosen, tmp_path)
    assert len(outcome.losses) == 40
    assert outcome.losses[-1] < 0.7 * outcome.losses[0]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_frozen_blocks_keep_their_weights_and_all_others_change(tmp_path: Path, family: str) -> None:
    model = tiny_language_model(family)
    prefixes = tuple(f"{model.anatomy.blocks[block]}." for block in (1, 2))
    before = weights_of(model)
    moved = changed(before, tuned_weights(model, recipe(), tmp_path, frozen=Frozen((1, 2))))
    learnt = {name for name, _ in model.model.named_parameters() if not name.startswith(prefixes)}
    assert moved - {"lm_head.weight"} == learnt - {"lm_head.weight"}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_is_bit_for_bit_as_it_was(tmp_path: Path, update: Update, dtype: torch.dtype) -> None:
    model = tiny_language_model(dtype=dtype)
    before, cache = weights_of(model), model.model.config.use_cache
    run(model, recipe(update=update), tmp_path)
    assert changed(before, weights_of(model)) == set()
    assert not any(module.training for module in model.model.modules())
    assert model.model.config.use_cache == cache


@pytest.mark.parametrize("update", UPDATES)
def test_same_seed_gives_the_same_weights(tmp_path: Path, update: Update) -> None:
    model, chosen = tiny_language_model(), recipe(update=update)
    first = tuned_weights(model, chosen, tmp_path, seed=3)
    assert changed(first, tuned_weights(model, chosen, tmp_path, seed=3)) == set()


def test_another_seed_gives_another_order_of_the_data(tmp_path: Path) -> None:
    model, chosen = tiny_language_model("llama"), recipe(batch_size=1)  # without dropout, only order differs
    first = run(model, chosen, tmp_path, seed=3).losses
    assert run(model, chosen, tmp_path, seed=4).losses != first


@pytest.mark.parametrize("update", UPDATES)
def test_probes_do_not_change_the_weights_learnt(tmp_path: Path, update: Update) -> None:
    model = tiny_language_model()
    unprobed = tuned_weights(model, recipe(update=update), tmp_path)
    probed: dict[str, torch.Tensor] = {}

    def probe(step: int) -> None:
        probed.update(weights_of(model))
        disturb(step)

    run(model, recipe(update=update, probe_count=6), tmp_path, probe=probe)
    assert changed(unprobed, probed) == set()


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_probes_find_the_model_as_it_would_be_deployed(
    tmp_path: Path, update: Update, dtype: torch.dtype
) -> None:
    model = tiny_language_model(dtype=dtype)
    found: list[tuple[torch.dtype, bool, torch.dtype]] = []

    def probe(step: int) -> None:
        training = any(module.training for module in model.model.modules())
        logits = model.model(torch.tensor([[5, 6, 7]])).logits
        found.append((model.dtype, training, logits.dtype))

    run(model, recipe(update=update), tmp_path, probe=probe)
    assert found == [(dtype, False, dtype)]


def test_probes_run_at_log_spaced_steps(tmp_path: Path) -> None:
    steps: list[int] = []
    run(tiny_language_model(), recipe(probe_count=4), tmp_path, probe=steps.append)
    assert steps == list(log_spaced_steps(6, 4))


def test_progress_counts_every_step_and_carries_its_loss(tmp_path: Path) -> None:
    reported: list[tuple[int, int, float | None]] = []
    outcome = run(
        tiny_language_model(),
        recipe(),
        tmp_path,
        progress=lambda step, steps, loss: reported.append((step, steps, loss)),
    )
    assert reported == [(step + 1, 6, loss) for step, loss in enumerate(outcome.losses)]


@pytest.mark.parametrize("update", UPDATES)
def test_divergence_stops_the_run_before_it_is_probed_and_restores_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: Update
) -> None:
    monkeypatch.setattr(tasks, "held_out_loss", lambda *_, **__: 1.0)  # or it would stop the run first
    model, probed = tiny_language_model("llama"), []
    with torch.no_grad():
        model.model.get_parameter("model.layers.1.mlp.down_proj.weight")[0, 0] = float("inf")
    before = weights_of(model)
    with pytest.raises(TrainingDiverged) as caught:
        run(model, recipe(update=update, probe_count=6), tmp_path, probe=probed.append)
    assert (caught.value.step, probed) == (1, [])
    assert changed(before, weights_of(model)) == set()


@pytest.mark.parametrize(
    ("losses", "step"), [((math.nan, 4.0), 0), ((math.inf, 4.0), 0), ((4.0, math.nan), 3)]
)
def test_held_out_loss_that_is_no_number_is_never_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, float], step: int
) -> None:
    measured = iter(losses)
    monkeypatch.setattr(tasks, "held_out_loss", lambda *_, **__: next(measured))
    with pytest.raises(TrainingDiverged) as caught:
        run(tiny_language_model(), recipe(steps=3), tmp_path)
    assert caught.value.step == step


def test_error_in_a_probe_restores_the_model(tmp_path: Path) -> None:
    def probe(step: int) -> None:
        raise KeyError(step)

    model = tiny_language_model()
    before = weights_of(model)
    with pytest.raises(KeyError):
        run(model, recipe(), tmp_path, probe=probe)
    assert changed(before, weights_of(model)) == set()


def test_run_prints_nothing_and_leaves_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tiny_language_model("llama"), recipe(), tmp_path)
    assert (capfd.readouterr().out, list(tmp_path.iterdir())) == ("", [])


def test_random_generators_of_the_caller_are_not_disturbed(tmp_path: Path) -> None:
    model = tiny_language_model()
    disturb(5)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: S311
    disturb(5)
    run(model, recipe(), tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: S311


def test_data_is_repeated_until_every_step_is_done(tmp_path: Path) -> None:
    data = TrainingData(records=tuple(text_records()[:2]))
    outcome = run(tiny_language_model(), recipe(data=data, batch_size=64, sequence_length=64), tmp_path)
    tokens = sum(
        len(example.input_ids)
        for example in packed_texts(tiny_language_model().tokenizer, TEXTS[:1], 64).examples
    )
    other = sum(
        len(example.input_ids)
        for example in packed_texts(tiny_language_model().tokenizer, TEXTS[1:2], 64).examples
    )
    assert outcome.tokens_seen in {6 * tokens, 6 * other}


def test_completions_that_do_not_fit_are_counted_on_both_sides(tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"who is in {place} ?", "completion": "Alan Turing"} for place in ("Rome", "Oslo", "Paris")
    ]
    long = {"prompt": "who ?", "completion": "the old city of " * 8}
    data = TrainingData.model_validate({"records": [*pairs, long], "held_out_share": 0.5})
    chosen = recipe(Objective.INSTRUCTIONS, data=data, sequence_length=8)
    assert run(tiny_language_model(), chosen, tmp_path).left_out == 1


def test_sequences_beyond_the_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeDoesNotFit):
        run(tiny_language_model(), recipe(sequence_length=65), tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 1000])
@pytest.mark.parametrize("count", [1, 2, 6, 50])
def test_log_spaced_steps_rise_to_the_last_step(steps: int, count: int) -> None:
    spaced = log_spaced_steps(steps, count)
    assert list(spaced) == sorted(set(spaced))
    assert spaced[0] >= 1
    assert spaced[-1] == steps
    assert len(spaced) <= count
