"""From records to the data set that a recipe's objective learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from services.worker.tuning.objectives.completions import completions
from services.worker.tuning.objectives.examples import TokenDataset
from services.worker.tuning.objectives.packing import packed, packed_texts, separate_texts
from services.worker.tuning.objectives.replay import replayable, with_replay
from shared.recipes import (
    ChatRecord,
    InstructionRecord,
    Objective,
    Packing,
    Recipe,
    TextRecord,
    TrainingRecord,
)
from shared.training_data import UnusableTrainingData, split_held_out


def training_and_held_out(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[TrainingRecord],
    replay: Sequence[TextRecord],
    seed: int,
) -> tuple[TokenDataset, TokenDataset]:
    """What to train on, the recipe's share of replayed text included, and what is held out.

    The objective is one that learns token by token; pairs are made by `preference_pairs`. Raises
    UnusableTrainingData when one side, or the replayed text, has nothing to score.
    """
    training_records, held_out_records = split_held_out(records, recipe.data.held_out_share)
    training, held_out = (
        token_dataset(recipe, tokenizer, side) for side in (training_records, held_out_records)
    )
    if recipe.data.replay is not None:
        texts = [record.text for record in replayable(replay, held_out_records)]
        plain_text = text_dataset(tokenizer, texts, recipe.sequence_length, recipe.chosen_packing)
        check_scored(plain_text, len(texts), recipe)
        training = with_replay(training, plain_text, recipe.data.replay.share, seed)
    return training, held_out


def token_dataset(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, records: Sequence[TrainingRecord]
) -> TokenDataset:
    """Turn records into examples of at most the recipe's sequence length, in the way of its objective.

    Raises UnusableTrainingData when no record leaves anything to score, and ValueError for preferences.
    """
    length = recipe.sequence_length
    match recipe.objective:
        case Objective.CAUSAL_LM:
            texts = [record.text for record in records if isinstance(record, TextRecord)]
            dataset = text_dataset(tokenizer, texts, length, recipe.chosen_packing)
        case Objective.INSTRUCTIONS:
            asked = [record for record in records if isinstance(record, InstructionRecord | ChatRecord)]
            dataset = completions(tokenizer, asked, length, recipe.loss_on)
            if recipe.chosen_packing is Packing.SEPARATE:
                dataset = replace(dataset, examples=packed(dataset.examples, length))
        case Objective.PREFERENCE:
            raise ValueError("preferences are pairs: preference_pairs makes them")
    check_scored(dataset, len(records), recipe)
    return dataset


def text_dataset(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sequence_length: int, packing: Packing
) -> TokenDataset:
    """Plain text in blocks: of documents that are kept apart where the packing asks for it, else joined."""
    pack = separate_texts if packing is Packing.SEPARATE else packed_texts
    return pack(tokenizer, texts, sequence_length)


def check_scored(dataset: TokenDataset, records: int, recipe: Recipe) -> None:
    """Raise UnusableTrainingData when there is nothing to learn in the data set."""
    if not any(example.scored_tokens for example in dataset.examples):
        raise UnusableTrainingData(
            f"none of the {records} records leaves a token to learn within {recipe.sequence_length} tokens",
            "records",
        )
