"""How an edit step names what went wrong."""

from __future__ import annotations

import pytest

from services.worker.editing.editor import EditFailed
from services.worker.editing.token_positions import SubjectTruncated
from services.worker.steps.edit import named_as_requested, target_tokens
from services.worker.steps.failures import StepFailed
from shared.edits import Edit
from shared.states import Cause
from tests.worker.editing.cases import tiny_language_model


@pytest.mark.parametrize(
    ("error", "cause", "named"),
    [
        (EditFailed("the loss is nan", 3), Cause.MODEL, "edits.0.paraphrases.0: the loss is nan"),
        (EditFailed("the loss is nan", 8), Cause.MODEL, "edits.2.paraphrases.1: the loss is nan"),
        (SubjectTruncated(6, 90, 64), Cause.USER, "edits.1.paraphrases.1: prompt and target take"),
    ],
)
def test_paraphrase_that_fails_is_named_by_the_edit_it_belongs_to(
    error: Exception, cause: Cause, named: str
) -> None:
    with pytest.raises(StepFailed) as caught, named_as_requested(edits=3, paraphrases=2):
        raise error
    assert caught.value.cause is cause
    assert caught.value.reason.startswith(named)


def test_edit_of_the_request_keeps_its_own_name() -> None:
    with pytest.raises(EditFailed, match=r"^edits\.2: the loss is nan$"), named_as_requested(3, 2):
        raise EditFailed("the loss is nan", 2)


def test_tokens_of_targets_are_counted_as_probes_encode_them() -> None:
    model = tiny_language_model("gpt2")
    edits = [
        Edit(prompt="{} lives in", subject="Ada Lovelace", target_new=target, target_true="Rome")
        for target in ("Paris", " Paris", "New York")
    ]
    assert target_tokens(model, edits) == [1, 1, 2]
