"""Two processes train what one would, each holding half of it, and nothing of them is left afterwards."""

from __future__ import annotations

import logging
import math
import re
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from services.worker.language_models.hooks import intercepted_output
from services.worker.language_models.loading import LanguageModel
from services.worker.tuning import tasks
from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from services.worker.tuning.errors import CheckpointUnusable, RankFailed, RecipeDoesNotFit, TrainingDiverged
from services.worker.tuning.freezing import Frozen
from services.worker.tuning.sharded import training
from services.worker.tuning.sharded.ranks import MODULE
from shared.recipes import (
    FullUpdate,
    LoraUpdate,
    PrefixTuningUpdate,
    PromptTuningUpdate,
    QloraUpdate,
    Recipe,
    Update,
    log_spaced_steps,
)
from tests.worker.tuning.interruptions import Seen
from tests.worker.tuning.models import changed, recipe, run, tiny_language_model, weights_of

ATOL = 2e-6  # six steps of AdamW in float32 whose gradients are summed in another order
STEPS = 6
WITHOUT_LOSSES: dict[str, Any] = {"losses": (), "held_out_loss_after": 0.0}


def undropped(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model without dropout, which drops out other units in every process."""
    model = tiny_language_model(family, dtype)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.model.config, name):
            setattr(model.model.config, name, 0.0)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def uneven(update: Update = FullUpdate(), **changes: Any) -> Recipe:  # noqa: B008 (immutable)
    """Six steps over epochs whose last step has two sequences instead of four."""
    settings = {
        "steps": STEPS,
        "sequence_length": 8,
        "learning_rate": 1e-3,
        "probe_count": 3,
        "schedule": "cosine",
        "warmup_steps": 2,
        **changes,
    }
    return recipe(update=update, **settings)


def ranks_of_this_process() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if MODULE in child.cmdline()]


def learnt(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A weight without GPT-2's biases of keys: softmax takes them out again, so that their gradients are
    rounding alone, which AdamW makes as large as any."""
    if not name.endswith("attn.c_attn.bias"):
        return weights[name]
    queries, _keys, values = weights[name].chunk(3)
    return torch.cat([queries, values])


@dataclass
class Both:
    """One run by a process alone and by two together."""

    alone: Seen = field(default_factory=Seen)
    together: Seen = field(default_factory=Seen)

    def check_equal_but_for_rounding(self) -> None:
        assert self.alone.outcome is not None
        assert self.together.outcome is not None
        assert replace(self.alone.outcome, **WITHOUT_LOSSES) == replace(
            self.together.outcome, **WITHOUT_LOSSES
        )
        assert self.together.outcome.losses == pytest.approx(self.alone.outcome.losses, rel=1e-5)
        assert self.together.outcome.held_out_loss_after == pytest.approx(
            self.alone.outcome.held_out_loss_after, rel=1e-5
        )
        assert [step for step, _ in self.alone.probed] == [step for step, _ in self.together.probed]
        for (_, one), (_, two) in zip(self.alone.probed, self.together.probed, strict=True):
            assert one.keys() == two.keys()
            for name in one:
                torch.testing.assert_close(learnt(two, name), learnt(one, name), atol=ATOL, rtol=0, msg=name)


def both(model: LanguageModel, chosen: Recipe, folder: Path, **settings: Any) -> Both:
    found = Both()
    before = weights_of(model)
    found.alone.tune(model, chosen, folder, **settings)
    found.together.tune(model, chosen, folder, processes=2, **settings)
    assert changed(before, weights_of(model)) == set()
    assert (list(folder.iterdir()), ranks_of_this_process()) == ([], [])
    return found


def test_tied_model_in_micro_batches_and_uneven_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, chosen = undropped("gpt2"), uneven(max_grad_norm=0.5)
    assert model.anatomy.tied_head
    with caplog.at_level(logging.INFO):
        found = both(model, chosen, tmp_path, micro_batch=2)
    found.check_equal_but_for_rounding()
    assert [step for step, _ in found.together.probed] == list(log_spaced_steps(STEPS, 3))
    assert [step for step, _, _ in found.together.progress] == list(range(1, STEPS + 1))

    held = [int(number) for number in re.findall(r"holds (\d+) of the numbers that learn", caplog.text)]
    assert found.together.outcome is not None
    whole = found.together.outcome.trained_parameters
    assert (len(held), sum(held)) == (2, whole)
    assert max(held) < 0.52 * whole


def test_frozen_blocks_keep_their_weights_in_a_half_precision_model(tmp_path: Path) -> None:
    model = undropped("llama", torch.bfloat16)
    chosen = uneven(
        FullUpdate(deployed_dtype="float32"),
        precision="float32",
        gradient_checkpointing=True,
        early_stop_loss=100.0,
        early_stop_every=4,
    )
    before = weights_of(model)
    found = both(model, chosen, tmp_path, frozen=Frozen((1, 2)))
    found.check_equal_but_for_rounding()
    step, probed = found.together.probed[-1]
    assert step == 4  # where the run was to end early
    frozen = {name for name in before if name.startswith(("model.layers.1.", "model.layers.2."))}
    assert changed(
        before, {name: weight.to(before[name].dtype) for name, weight in probed.items()}
    ).isdisjoint(frozen)
    assert all(weight.dtype is torch.float32 for weight in probed.values())


def test_adapters(tmp_path: Path) -> None:
    chosen = uneven(LoraUpdate(rank=4, merged=True), precision="float32")
    folder = tmp_path / "für alle"  # as a person may call the place for temporary files
    folder.mkdir()
    both(undropped("llama"), chosen, folder, frozen=Frozen((1,))).check_equal_but_for_rounding()


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    model, chosen = tiny_language_model(dtype=torch.bfloat16), uneven()  # with a dropout of 0.1
    kept = tmp_path / "kept.safetensors"
    whole = Seen()

    def keep(path: Path, step: int) -> None:
        if step == 3:
            shutil.copyfile(path, kept)

    whole.tune(model, chosen, tmp_path, processes=2, continuation=Continuation(due=lambda: True, store=keep))
    checkpoint = Checkpoint.read(kept)
    resumed = Seen(
        probed=[(step, weights) for step, weights in whole.probed if step <= 3], progress=whole.progress[:3]
    )
    torch.manual_seed(3)  # another process would start from another state of the generators
    resumed.tune(model, chosen, tmp_path, processes=2, continuation=Continuation(resume=checkpoint))
    resumed.check_equal(whole)

    with pytest.raises(CheckpointUnusable, match="processes"):
        run(model, chosen, tmp_path, continuation=Continuation(resume=checkpoint))


def test_rank_that_is_killed_ends_the_run_and_the_other_ranks(tmp_path: Path) -> None:
    model = tiny_language_model("llama", torch.bfloat16)
    before = weights_of(model)

    def probe(step: int) -> None:
        ranks_of_this_process()[1].send_signal(signal.SIGKILL)

    with pytest.raises(RankFailed, match=r"process \d of the 2 .* was killed by SIGKILL"):
        run(model, uneven(probe_count=6), tmp_path, processes=2, probe=probe)
    assert changed(before, weights_of(model)) == set()
    assert (list(tmp_path.iterdir()), ranks_of_this_process()) == ([], [])


def test_what_ranks_began_with_is_gone_once_they_have_read_it(tmp_path: Path) -> None:
    left: list[str] = []

    def progress(step: int, steps: int, loss: float | None) -> None:
        left.extend(path.name for path in tmp_path.rglob("*.safetensors"))

    run(tiny_language_model("llama"), uneven(steps=1), tmp_path, processes=2, progress=progress)
    assert left == []


def test_disk_that_fails_at_a_probe_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "GATHERED", "nowhere/gathered.safetensors")
    with pytest.raises(FileNotFoundError):
        run(tiny_language_model("llama"), uneven(), tmp_path, processes=2)
    assert (list(tmp_path.iterdir()), ranks_of_this_process()) == ([], [])


def test_divergence_stops_the_run_before_it_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "held_out_loss", lambda *_, **__: 1.0)  # or it would stop the run first
    model, probed = tiny_language_model("llama"), list[int]()
    with torch.no_grad():
        model.model.get_parameter("model.layers.1.mlp.down_proj.weight")[0, 0] = math.inf
    before = weights_of(model)
    with pytest.raises(TrainingDiverged) as caught:
        run(model, uneven(probe_count=6), tmp_path, processes=2, probe=probed.append)
    assert (caught.value.step, probed) == (1, [])
    assert changed(before, weights_of(model)) == set()
    assert ranks_of_this_process() == []


@pytest.mark.parametrize(
    "update",
    [QloraUpdate(rank=2), PromptTuningUpdate(virtual_tokens=2), PrefixTuningUpdate(virtual_tokens=2)],
)
def test_updates_that_cannot_be_sharded_are_refused(tmp_path: Path, update: Update) -> None:
    with pytest.raises(RecipeDoesNotFit, match=f"update '{update.kind}' cannot be trained by 2 processes"):
        run(tiny_language_model(), uneven(update), tmp_path, processes=2)


def test_model_that_was_edited_beside_its_weights_is_refused(tmp_path: Path) -> None:
    model = tiny_language_model()
    edited = intercepted_output(model.model, model.anatomy.mlps[1], lambda _, output: output)
    with edited, pytest.raises(RecipeDoesNotFit, match="beside its weights"):
        run(model, uneven(), tmp_path, processes=2)
