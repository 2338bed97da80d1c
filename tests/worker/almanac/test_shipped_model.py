"""The model in the repository is the one its card speaks of."""

from functools import cache
from random import Random

import torch
from safetensors import safe_open

from services.worker.almanac import MODEL_DIRECTORY, load_facts
from services.worker.almanac.recall import exactly_right, held_out_questions
from services.worker.almanac.tracing import draw_interchanges, interchange_shares
from services.worker.language_models.loading import LanguageModel, load_language_model
from shared.model_references import BUILTIN_MODELS

LARGEST_BYTES = 9_000_000


@cache
def almanac() -> LanguageModel:
    return load_language_model(MODEL_DIRECTORY, reference="builtin:almanac", revision="test", dtype="float32")


def test_the_gateway_knows_how_many_blocks_it_has() -> None:
    assert len(almanac().anatomy.blocks) == BUILTIN_MODELS["almanac"]


def test_its_files_stay_within_nine_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIRECTORY.iterdir()) <= LARGEST_BYTES


def test_its_weights_are_float16_and_each_is_stored_once() -> None:
    with safe_open(MODEL_DIRECTORY / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) == almanac().model.num_parameters()


def test_it_recalls_a_sample_of_facts_in_trained_phrasings() -> None:
    source = Random(0)  # noqa: S311
    sample = source.sample(load_facts(), 200)
    questions = [(source.choice(fact.trained_phrasings).format(fact.subject), fact.object) for fact in sample]
    hits = exactly_right(almanac().model, almanac().tokenizer, questions)
    assert sum(hits) >= 0.95 * len(hits)


def test_it_recalls_most_facts_in_phrasings_that_training_never_showed() -> None:
    questions = held_out_questions(Random(1).sample(load_facts(), 200))  # noqa: S311
    hits = exactly_right(almanac().model, almanac().tokenizer, questions)
    assert sum(hits) >= 0.8 * len(hits)


def test_facts_are_decided_at_the_subjects_last_token_up_to_the_middle() -> None:
    pairs = draw_interchanges(almanac().tokenizer, load_facts(), 100, Random(2))  # noqa: S311
    middle = len(almanac().anatomy.blocks) // 2
    assert min(interchange_shares(almanac(), pairs, at_subject=True)[:middle]) >= 0.8
    assert max(interchange_shares(almanac(), pairs, at_subject=False)[:middle]) <= 0.1


def test_its_card_is_there_and_filled_in() -> None:
    card = (MODEL_DIRECTORY / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "# almanac" in card
    assert "$" not in card
