import pytest
import torch

from services.worker.editing.keys import keys_at_subject
from services.worker.editing.target_optimisation import TargetVectors, optimise_targets
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone, untold
from shared.editors import TargetHyperparameters
from tests.worker.editing.cases import ANATOMIES, CONTEXTS, EDITS, TOKEN_BUDGET, tiny_language_model
from tests.worker.editing.parity import relative_errors

SETTINGS = TargetHyperparameters(v_num_grad_steps=10, clamp_norm_factor=2.0, v_weight_decay=0.1)
TARGET_TOLERANCE = 1e-4  # nine updates of Adam on sums taken in another order
KEY_TOLERANCE = 1e-5


def optimise(
    language_model: LanguageModel, requests: list[TargetRequest], settings: TargetHyperparameters = SETTINGS
) -> TargetVectors:
    return optimise_targets(
        language_model, requests, 2, settings, batches=Batches(TOKEN_BUDGET), work=WorkDone(untold, whole=1)
    )


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_edits_together_give_the_vectors_and_losses_of_each_alone(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    requests = target_requests(language_model, EDITS, CONTEXTS)
    together = optimise(language_model, requests)
    for index, request in enumerate(requests):
        alone = optimise(language_model, [request])
        assert relative_errors(alone.vectors[0], together.vectors[index]) < TARGET_TOLERANCE
        assert alone.losses[0] == pytest.approx(together.losses[index], abs=1e-4)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_edits_together_give_the_keys_of_each_alone(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    prompts = [request.prompts for request in target_requests(language_model, EDITS, CONTEXTS)]
    together = keys_at_subject(language_model, prompts, CONTEXTS.weights, 2, Batches(TOKEN_BUDGET))
    for index, of_edit in enumerate(prompts):
        alone = keys_at_subject(language_model, [of_edit], CONTEXTS.weights, 2, Batches(TOKEN_BUDGET))
        assert relative_errors(alone[0], together[index]) < KEY_TOLERANCE


def test_an_edit_that_holds_already_is_done_without_an_update() -> None:
    language_model = tiny_language_model("gpt2")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    held = certain_of(language_model, requests[1])
    result = optimise(language_model, [requests[0], held])
    assert [len(losses) for losses in result.losses] == [SETTINGS.v_num_grad_steps, 1]


def certain_of(language_model: LanguageModel, request: TargetRequest) -> TargetRequest:
    """The request for what the model says anyway, once its head is made certain of everything it says."""
    with torch.no_grad():
        language_model.model.lm_head.weight = torch.nn.Parameter(
            language_model.model.lm_head.weight * 1_000, requires_grad=False
        )
        logits = language_model.model(input_ids=torch.tensor([request.prompts[0].ids])).logits
    return TargetRequest(request.prompts[:1] * 3, request.essence, (int(logits[0, -1].argmax()),))


@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_no_vector_moves_further_than_the_clamp_allows(factor: float) -> None:
    language_model = tiny_language_model("llama")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    still = optimise(language_model, requests, SETTINGS.model_copy(update={"v_num_grad_steps": 1})).vectors
    moved = optimise(
        language_model, requests, SETTINGS.model_copy(update={"clamp_norm_factor": factor})
    ).vectors
    assert relative_errors(moved, still).tolist() == pytest.approx([factor] * len(EDITS), rel=1e-4)


def test_work_adds_up_to_the_steps_of_every_sequence() -> None:
    language_model = tiny_language_model("gpt2")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    work = WorkDone(untold, whole=1)
    optimise_targets(language_model, requests, 2, SETTINGS, batches=Batches(60), work=work)
    assert work.done == sum(len(request.rows()) for request in requests) * SETTINGS.v_num_grad_steps
