"""The losses of the editors that fine-tune, and when they stop."""

import pytest
import torch

from services.worker.editing.editor import Materials
from services.worker.editing.fine_tuning import (
    Case,
    edit_cases,
    loss_at_last_token,
    loss_at_target_tokens,
)
from services.worker.language_models.loading import LanguageModel
from tests.worker.editing.cases import EDITS, target_log_probs, tiny_language_model
from tests.worker.editing.table import TABLE, run

TOLERANCE = 1e-4  # sums of float32 in another order
TUNING = ("ft", "ft_l", "ft_m", "lora")


@pytest.fixture(params=["gpt2", "llama"])
def language_model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_language_model(request.param)


@pytest.fixture
def cases(language_model: LanguageModel) -> list[Case]:
    """Targets of one token and of two."""
    found = edit_cases(language_model, EDITS)
    assert {len(case.target) for case in found} == {1, 2}
    return found


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_loss_reads_every_target_token_at_its_own_place(
    language_model: LanguageModel, cases: list[Case], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model.tokenizer, "padding_side", side)
    lengths = torch.tensor([len(case.target) for case in cases])
    expected = -target_log_probs(language_model, EDITS) / lengths
    assert loss_at_target_tokens(language_model, cases) == pytest.approx(expected, abs=TOLERANCE)


def test_masked_loss_is_the_librarys_with_the_prompt_masked(
    language_model: LanguageModel, cases: list[Case]
) -> None:
    found = loss_at_target_tokens(language_model, cases)
    for case, loss in zip(cases, found, strict=True):
        labels = torch.tensor([[-100] * len(case.prompt) + list(case.target)])
        ids = torch.tensor([[*case.prompt, *case.target]])
        assert float(loss) == pytest.approx(
            float(language_model.model(input_ids=ids, labels=labels).loss), abs=TOLERANCE
        )


def test_loss_of_plain_fine_tuning_asks_for_every_target_token_at_once(
    language_model: LanguageModel, cases: list[Case]
) -> None:
    found = loss_at_last_token(language_model, cases)
    for case, loss in zip(cases, found, strict=True):
        logits = language_model.model(input_ids=torch.tensor([case.prompt])).logits[0, -1]
        surprise = -logits.log_softmax(dim=-1)[list(case.target)]
        assert float(loss) == pytest.approx(float(surprise.mean()), abs=TOLERANCE)


def test_masked_loss_makes_targets_of_several_tokens_likelier_than_the_plain_one() -> None:
    language_model = tiny_language_model("gpt2")
    several = [edit for edit in EDITS if " " in edit.target_new]
    after = {}
    for editor in ("ft", "ft_m"):
        settings = TABLE[editor].hyperparameters.model_copy(update={"num_steps": 60})
        outcome = run(editor, language_model, Materials(), edits=several, hyperparameters=settings)
        with outcome.modification.applied(language_model):
            after[editor] = target_log_probs(language_model, several)
    assert torch.all(after["ft_m"] > after["ft"] + 1)


@pytest.mark.parametrize("editor", TUNING)
def test_tuning_ends_once_no_batch_has_anything_left_to_learn(editor: str) -> None:
    language_model = tiny_language_model("gpt2")
    settings = TABLE[editor].hyperparameters
    first, *_ = run(editor, language_model, Materials()).losses[0]
    content = settings.model_copy(update={"loss_threshold": first + 1})
    outcome = run(editor, language_model, Materials(), hyperparameters=content)
    assert outcome.losses == ((),)
    descended = run(editor, language_model, Materials(), hyperparameters=settings)
    assert len(descended.losses[0]) == TABLE[editor].hyperparameters.model_dump()["num_steps"]
