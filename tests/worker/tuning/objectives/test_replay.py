"""Replayed text makes up its share of the training sequences and never meets what is held out."""

from __future__ import annotations

import pytest

from services.worker.tuning.objectives import TokenDataset, training_and_held_out
from services.worker.tuning.objectives.replay import drawn
from shared.recipes import Objective, Packing, Recipe, TextRecord, TrainingData
from shared.training_data import split_held_out
from tests.worker.tiny_models import tiny_tokenizer
from tests.worker.tuning.models import instruction_records, recipe, text_records


def with_replay(objective: Objective, share: float, **changes: object) -> Recipe:
    records = instruction_records() if objective is Objective.INSTRUCTIONS else text_records()
    data = TrainingData.model_validate(
        {"records": records, "held_out_share": 0.3, "replay": {"share": share, "source": "file:any.txt"}}
    )
    return recipe(objective, data=data, **changes)


def datasets(chosen: Recipe, seed: int = 0) -> tuple[TokenDataset, TokenDataset]:
    assert chosen.data.records is not None
    return training_and_held_out(chosen, tiny_tokenizer(), chosen.data.records, text_records(), seed)


@pytest.mark.parametrize("packing", [Packing.OFF, Packing.SEPARATE])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_replay_makes_up_its_share_of_the_training_sequences(share: float, packing: Packing) -> None:
    chosen = with_replay(Objective.INSTRUCTIONS, share, packing=packing)
    without = chosen.model_copy(update={"data": chosen.data.model_copy(update={"replay": None})})
    task, (training, _) = datasets(without)[0], datasets(chosen)
    assert training.examples[: len(task)] == task.examples
    replayed = len(training) - len(task)
    assert abs(replayed / len(training) - share) <= 0.5 / len(task)


def test_replay_that_is_asked_for_is_there_however_small_its_share() -> None:
    chosen = with_replay(Objective.INSTRUCTIONS, 0.001)
    without = chosen.model_copy(update={"data": chosen.data.model_copy(update={"replay": None})})
    assert len(datasets(chosen)[0]) == len(datasets(without)[0]) + 1


def test_nothing_of_the_replayed_text_is_held_out() -> None:
    chosen = with_replay(Objective.INSTRUCTIONS, 0.5)
    without = chosen.model_copy(update={"data": chosen.data.model_copy(update={"replay": None})})
    assert datasets(chosen)[1] == datasets(without)[1]


def test_text_that_is_held_out_is_not_replayed() -> None:
    chosen = with_replay(Objective.CAUSAL_LM, 0.9, packing=Packing.SEPARATE, sequence_length=64)
    training, _ = datasets(chosen)
    _, held_out = split_held_out(text_records(), chosen.data.held_out_share)
    tokens = {token for example in training.examples for token in example.input_ids}
    tokenizer = tiny_tokenizer()
    seen = tokenizer.decode([token for example in training.examples for token in example.input_ids])
    assert tokens
    assert held_out
    assert not [record for record in held_out if isinstance(record, TextRecord) and record.text in seen]


def test_the_seed_alone_decides_what_is_replayed() -> None:
    chosen = with_replay(Objective.INSTRUCTIONS, 0.3, sequence_length=8)
    assert datasets(chosen, seed=1) == datasets(chosen, seed=1)
    drawn_by_seed = {datasets(chosen, seed=seed)[0].content_hash for seed in range(5)}
    assert len(drawn_by_seed) > 1


def test_too_little_text_is_replayed_evenly() -> None:
    examples = datasets(with_replay(Objective.CAUSAL_LM, 0.1))[0].examples[:3]
    chosen = drawn(examples, 8, seed=0)
    assert len(chosen) == 8
    assert {chosen.count(example) for example in examples} == {2, 3}
