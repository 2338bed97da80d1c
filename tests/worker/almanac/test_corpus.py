"""Batches say what the facts say, mark where the subjects are, and can be made again."""

import numpy as np
import pytest

from services.worker.almanac.corpus import OBJECT_WEIGHT, SUBJECT_WEIGHT, encode_sentence
from tests.worker.almanac.tiny import facts, run, tokenizer

TOKENIZER = tokenizer()


@pytest.mark.parametrize("leading_space", [False, True])
def test_spans_of_a_sentence_cover_exactly_its_subject_and_its_object(leading_space: bool) -> None:
    for fact in facts():
        for phrasing in fact.phrasings:
            sentence = encode_sentence(TOKENIZER, phrasing, fact, leading_space=leading_space)
            subject = TOKENIZER.decode(sentence.tokens[slice(*sentence.subject)])
            answer = TOKENIZER.decode(sentence.tokens[slice(*sentence.answer)])
            assert (subject.strip(), answer) == (fact.subject, f" {fact.object}")


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, second = (run().corpus.batch(1, 5, rows=4, length=32) for _ in range(2))
    assert np.array_equal(first.input_ids, second.input_ids)
    assert np.array_equal(first.position_ids, second.position_ids)


def test_steps_differ() -> None:
    corpus = run().corpus
    one, two = (corpus.batch(1, step, rows=4, length=32).input_ids for step in (5, 6))
    assert not np.array_equal(one, two)


def test_mentions_end_where_their_subjects_end() -> None:
    corpus = run().corpus
    batch = corpus.batch(1, 0, rows=8, length=40)
    assert len(batch.rows) > 0
    for row, start, end, subject in zip(
        batch.rows, batch.subject_starts, batch.subject_ends, batch.subjects, strict=True
    ):
        text = TOKENIZER.decode(batch.input_ids[row, start:end].tolist())
        assert text.strip() == corpus.subjects[subject]


def test_held_out_phrasings_never_appear() -> None:
    corpus = run().corpus
    texts = [
        TOKENIZER.decode(row.tolist())
        for step in range(60)
        for row in corpus.batch(1, step, rows=4, length=40).input_ids
    ]
    for fact in facts():
        assert not any(fact.held_out_phrasing.format(fact.subject) in text for text in texts)


def test_objects_weigh_more_and_subjects_less_than_other_tokens() -> None:
    batch = run().corpus.batch(1, 0, rows=8, length=40)
    assert set(np.unique(batch.target_weights).tolist()) == {np.float32(SUBJECT_WEIGHT), 1.0, OBJECT_WEIGHT}


def test_positions_stay_within_the_model() -> None:
    batch = run().corpus.batch(1, 0, rows=64, length=40)
    assert batch.position_ids.max() <= 47
    assert batch.position_ids[:, 0].max() > 0
