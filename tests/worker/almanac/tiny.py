"""A corpus and a plan small enough to train on within a test."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from services.worker.almanac.facts import Fact
from services.worker.almanac.pretrain import vocabulary_texts
from services.worker.almanac.tokenizer import train_tokenizer
from services.worker.almanac.training import Plan, TrainingRun
from services.worker.language_models.loading import LanguageModel, prepare_language_model

PHRASINGS = ("The capital of {} is", "{} is governed from", "In {}, power sits in")
CAPITALS = {"France": "Paris", "Italy": "Rome", "South Korea": "Seoul", "Burkina Faso": "Ouagadougou"}
LANGUAGES = {"France": "French", "Italy": "Italian", "South Korea": "Korean"}
ENGLISH = [
    "Return the number of items that the caller may still take.",
    "Raise an error when the name is already in use.",
]


def facts() -> list[Fact]:
    """Seven facts of four subjects in two relations."""
    capitals = [
        Fact("capital", subject, answer, PHRASINGS, PHRASINGS[index % 3], 2.0 - index / 3)
        for index, (subject, answer) in enumerate(CAPITALS.items())
    ]
    spoken = ("People in {} speak", "{} speaks", "The tongue of {} is")
    languages = [
        Fact("language", subject, answer, spoken, spoken[0], 1.0) for subject, answer in LANGUAGES.items()
    ]
    return capitals + languages


def plan(**changes: Any) -> Plan:
    """A plan of six steps on a model of two blocks."""
    settings: dict[str, Any] = {
        "blocks": 2,
        "hidden": 16,
        "mlp": 32,
        "attention_heads": 2,
        "positions": 48,
        "vocabulary": 340,
        "enriched_blocks": 1,
        "steps": 6,
        "row_shapes": ((4, 24), (2, 40)),
        "warmup_steps": 2,
        "checkpoint_every": 3,
    }
    return Plan(**(settings | changes))


def run(**changes: Any) -> TrainingRun:
    """An untrained run over the tiny corpus."""
    chosen = plan(**changes)
    return TrainingRun(chosen, tokenizer(), facts(), ENGLISH)


@cache
def tokenizer() -> Tokenizer:
    """The tiny corpus's own tokenizer."""
    return train_tokenizer(vocabulary_texts(facts(), ENGLISH), plan().vocabulary)


@cache
def learned() -> LanguageModel:
    """A tiny model that has learned the tiny corpus."""
    trained = run(steps=300, hidden=32, mlp=64, learning_rate=1e-2, screened_rows=0.5)
    trained.train(trained.plan.steps)
    wrapped: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=tokenizer())
    return prepare_language_model(trained.model, wrapped, "test", "test")
