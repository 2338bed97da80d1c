import pytest
import torch

from services.worker.editing.shared_contexts import (
    common_beginnings,
    nothing_shared,
    run_shared_contexts,
)
from services.worker.editing.target_requests import target_requests
from services.worker.editing.token_positions import SubjectSequence
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.taps import Tap, read_taps
from tests.worker.editing.cases import ANATOMIES, CONTEXTS, EDITS, tiny_language_model
from tests.worker.scarce_memory import room_for

ROUNDING = 1e-5


def all_sequences(language_model: LanguageModel) -> list[list[SubjectSequence]]:
    return [request.sequences() for request in target_requests(language_model, EDITS, CONTEXTS)]


def test_what_is_common_ends_before_every_subject() -> None:
    sequences = [
        [SubjectSequence((1, 2, 3, 4), 3), SubjectSequence((1, 9), 1)],
        [SubjectSequence((1, 2, 3, 4, 5), 2), SubjectSequence((1, 8), 1), SubjectSequence((7, 7), 1)],
    ]
    assert common_beginnings(sequences) == [(1, 2), (1,), ()]


def test_a_single_edit_shares_nothing() -> None:
    language_model = tiny_language_model("llama")
    shared = run_shared_contexts(language_model, all_sequences(language_model)[:1], range(4))
    assert set(shared.lengths) == {0}


def states_at_subjects(language_model: LanguageModel, *, is_shared: bool) -> torch.Tensor:
    """Hidden states before the head at every subject, (rows, hidden)."""
    sequences = all_sequences(language_model)
    rows = [row for of_edit in sequences for row in enumerate(of_edit)]
    contexts, flat = zip(*rows, strict=True)
    shared = (
        run_shared_contexts(language_model, sequences, range(4))
        if is_shared
        else nothing_shared(language_model, 4)
    )
    assert any(shared.lengths) == is_shared
    whole, subjects = shared.sequences(language_model, contexts, flat)
    states = Tap(language_model.anatomy.head, "input")
    arguments = whole.forward_arguments(language_model.model)
    read = read_taps(language_model.model, whole.ends, [states], **arguments)[states]
    return read[torch.arange(len(flat)), subjects]


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_sequences_go_on_from_what_they_share_as_if_run_whole(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    expected = states_at_subjects(language_model, is_shared=False)
    states = states_at_subjects(language_model, is_shared=True)
    assert torch.allclose(states, expected, atol=ROUNDING * float(expected.abs().max()))


def test_where_there_is_no_memory_for_it_nothing_is_shared() -> None:
    language_model = tiny_language_model("gpt2")
    with room_for(2, language_model):
        shared = run_shared_contexts(language_model, all_sequences(language_model), range(4))
    assert set(shared.lengths) == {0}
