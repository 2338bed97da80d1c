import functools
from collections.abc import Callable

import pytest
import torch

from benchmarks import textbook
from services.worker.editing.keys import keys_at_subject
from services.worker.editing.places import Place, block_output, mlp_output
from services.worker.editing.running_edits import shortest_route
from services.worker.editing.target_optimisation import TargetVectors, optimise_targets
from services.worker.editing.target_requests import TargetRequest, target_requests
from services.worker.language_models.anatomy import Anatomy
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone, untold
from shared.editors import TargetHyperparameters
from tests.worker.editing.cases import ANATOMIES, CONTEXTS, EDITS, TOKEN_BUDGET, tiny_language_model
from tests.worker.editing.parity import relative_errors
from tests.worker.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

SETTINGS = TargetHyperparameters(v_num_grad_steps=10, clamp_norm_factor=2.0, v_weight_decay=0.1)
TARGET_TOLERANCE = 1e-4  # nine updates of Adam on sums taken in another order
KEY_TOLERANCE = 1e-5


def optimise(
    language_model: LanguageModel,
    requests: list[TargetRequest],
    settings: TargetHyperparameters = SETTINGS,
    place: Place | None = None,
) -> TargetVectors:
    return optimise_targets(
        language_model,
        requests,
        place or block_output(language_model.anatomy, 2),
        settings,
        batches=Batches(TOKEN_BUDGET),
        work=WorkDone(untold, whole=1),
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


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("place_in", [block_output, mlp_output])
@pytest.mark.parametrize("layer", [0, 1])
def test_vectors_are_those_of_whole_forward_passes_of_each_edit(
    family: str, place_in: Callable[[Anatomy, int], Place], layer: int
) -> None:
    tokenizer = tiny_tokenizer(adds_bos=family == "llama")
    language_model = prepare_language_model(tiny_model(family), tokenizer, family, "r1")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    place = place_in(language_model.anatomy, layer)
    expected = [
        textbook.find_target(language_model, request, place.modules[0], SETTINGS) for request in requests
    ]
    found = optimise(language_model, requests, place=place)
    assert shortest_route(language_model, place).continues
    assert relative_errors(found.vectors, torch.stack(expected)).max() < TARGET_TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.parametrize("place_in", [block_output, mlp_output])
def test_a_model_that_cannot_continue_gives_the_same_vectors(
    family: str, place_in: Callable[[Anatomy, int], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model = prepare_language_model(tiny_model(family), tiny_tokenizer(), family, "r1")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    place = place_in(language_model.anatomy, 1)
    expected = optimise(language_model, requests, place=place)
    forward = language_model.model.forward

    @functools.wraps(forward)
    def keeps_nothing(past_key_values: object = None, **arguments: object) -> object:
        return forward(**arguments)

    monkeypatch.setattr(language_model.model, "forward", keeps_nothing)
    assert not shortest_route(language_model, place).continues
    found = optimise(language_model, requests, place=place)
    assert relative_errors(found.vectors, expected.vectors).max() < TARGET_TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
def test_the_first_update_of_several_modules_is_that_of_each_alone(family: str) -> None:
    language_model = prepare_language_model(tiny_model(family), tiny_tokenizer(), family, "r1")
    anatomy = language_model.anatomy
    requests = target_requests(language_model, EDITS, CONTEXTS)
    once = SETTINGS.model_copy(update={"v_num_grad_steps": 2})
    modules = (anatomy.attentions[1], anatomy.mlp_down_projections[1])
    found = optimise(language_model, requests, once, place=Place(1, modules))
    assert found.by_module.shape == (len(EDITS), 2, 32)
    for index, module in enumerate(modules):
        alone = optimise(language_model, requests, once, place=Place(1, (module,)))
        assert relative_errors(found.by_module[:, index], alone.vectors).max() < TARGET_TOLERANCE
    assert torch.equal(found.vectors, found.by_module[:, 1])


def test_only_the_blocks_above_and_the_tokens_from_the_subject_on_are_run_at_each_step() -> None:
    language_model = tiny_language_model("llama")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    seen: list[tuple[int, int]] = []  # block, tokens of a row
    for block in (1, 2, 3):
        language_model.model.get_submodule(language_model.anatomy.attentions[block]).register_forward_hook(
            lambda _module, _args, output, block=block: seen.append((block, output[0].shape[1]))
        )
    optimise(language_model, requests, place=mlp_output(language_model.anatomy, 2))
    longest = max(
        len(prompt.ids) + len(request.target_ids) - 1 - prompt.subject_position
        for request in requests
        for prompt in request.prompts
    )
    steps = seen[-SETTINGS.v_num_grad_steps :]
    assert steps == [(3, longest)] * SETTINGS.v_num_grad_steps


def test_an_essence_that_a_bare_prompt_begins_with_is_not_run_again() -> None:
    language_model = tiny_language_model("llama")
    requests = target_requests(language_model, EDITS, CONTEXTS)
    begins = [edit.prompt.startswith("{}") for edit in EDITS]
    assert [len(request.sequences()) for request in requests] == [3 if at_start else 4 for at_start in begins]


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_edits_together_give_the_keys_of_each_alone(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    prompts = [request.prompts for request in target_requests(language_model, EDITS, CONTEXTS)]
    together = keys_at_subject(language_model, prompts, CONTEXTS.weights, 2, Batches(TOKEN_BUDGET))
    for index, of_edit in enumerate(prompts):
        alone = keys_at_subject(language_model, [of_edit], CONTEXTS.weights, 2, Batches(TOKEN_BUDGET))
        assert relative_errors(alone[0], together[index]) < KEY_TOLERANCE


def test_a_key_that_is_not_finite_is_its_own_edits_alone() -> None:
    language_model = tiny_language_model("gpt2")
    noether = language_model.tokenizer.encode("Emmy Noether")[1]
    with torch.no_grad():
        language_model.model.get_input_embeddings().weight[noether] = torch.nan
    prompts = [request.prompts for request in target_requests(language_model, EDITS, CONTEXTS)]
    keys = keys_at_subject(language_model, prompts, CONTEXTS.weights, 2, Batches(TOKEN_BUDGET))
    assert keys.isfinite().all(dim=1).tolist() == [True, True, True, False]


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
    place = block_output(language_model.anatomy, 2)
    optimise_targets(language_model, requests, place, SETTINGS, batches=Batches(60), work=work)
    assert work.done == sum(len(request.rows()) for request in requests) * SETTINGS.v_num_grad_steps
