"""A run can stop and go on, and writes a model that loads."""

from pathlib import Path

import pytest
import torch

from services.worker.almanac.pretrain import CHECKPOINT, RUN_RECORD, pretrain
from services.worker.almanac.training import TrainingRun
from services.worker.language_models.loading import load_language_model
from tests.worker.almanac.tiny import ENGLISH, facts, plan, run


def state(finished: TrainingRun) -> dict[str, torch.Tensor]:
    return finished.model.state_dict() | finished.heads.state_dict(prefix="heads.")


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = run()
    whole.train(6)
    part = run()
    part.train(3)
    part.save_checkpoint(tmp_path / CHECKPOINT)
    torch.manual_seed(99)
    resumed = run()
    torch.rand(5)
    resumed.load_checkpoint(tmp_path / CHECKPOINT)
    resumed.train(6)
    expected, found = state(whole), state(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    run().save_checkpoint(tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="another plan"):
        run(steps=7).load_checkpoint(tmp_path / CHECKPOINT)


def test_training_lowers_both_losses() -> None:
    losses = []
    longer = run(steps=40, learning_rate=5e-3)
    longer.train(40, losses.append)
    assert losses[-1].language < losses[0].language
    assert losses[-1].enrichment < losses[0].enrichment


def test_pretrain_writes_a_loadable_float16_model_and_no_checkpoint(tmp_path: Path) -> None:
    pretrain(tmp_path, plan(), facts(), ENGLISH)
    loaded = load_language_model(tmp_path, reference="test", revision="test")
    assert loaded.dtype == torch.float16
    assert loaded.anatomy.tied_head
    assert (tmp_path / RUN_RECORD).exists()
    assert not (tmp_path / CHECKPOINT).exists()


def test_pretrain_continues_from_its_checkpoint(tmp_path: Path) -> None:
    straight, broken_off = tmp_path / "straight", tmp_path / "broken-off"
    pretrain(straight, plan(), facts(), ENGLISH)
    part = run()
    part.train(3)
    broken_off.mkdir()
    part.save_checkpoint(broken_off / CHECKPOINT)
    pretrain(broken_off, plan(), facts(), ENGLISH)
    assert (broken_off / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
