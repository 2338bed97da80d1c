"""What every editor must hold to, on every anatomy."""

from pathlib import Path

import pytest
import torch

from services.worker.editing.catalogue import EDITORS, prepare_contexts, prepare_statistics
from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.editor import EditFailed
from services.worker.editing.key_statistics import NO_STATISTICS
from services.worker.editing.token_positions import SubjectTruncated
from services.worker.language_models.memory import GpuMemory, OutOfGpuMemory
from services.worker.language_models.weight_delta import LowRank, WeightDelta, applied
from shared.editors import CATALOGUE, MemitHyperparameters
from tests.worker.editing.cases import (
    CASES,
    EDITS,
    ENDING_IN_SUBJECT,
    HYPERPARAMETERS,
    Case,
    run,
    target_log_probs,
    tiny_language_model,
    tiny_statistics,
)
from tests.worker.editing.parity import relative_error
from tests.worker.scarce_memory import SHORTAGE, room_for, room_for_gradients_of

CPU = torch.device("cpu")
# Sums in another order, through a dozen updates of Adam.
SAME_RESULT = 1e-3


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    editor, anatomy = request.param
    language_model = tiny_language_model(anatomy)
    statistics = tiny_statistics(language_model)
    return Case(editor, language_model, statistics, run(editor, language_model, statistics))


def difference(first: WeightDelta, second: WeightDelta) -> float:
    """Largest relative error of any parameter's delta."""
    assert first.parameters.keys() == second.parameters.keys()
    return max(
        relative_error(first.parameters[name].dense(CPU), second.parameters[name].dense(CPU))
        for name in first.parameters
    )


def test_catalogues_of_gateway_and_worker_name_the_same_editors() -> None:
    assert EDITORS.keys() == CATALOGUE.keys()


def test_edits_take(case: Case) -> None:
    edits = [EDITS[index] for index in ENDING_IN_SUBJECT]
    before = target_log_probs(case.language_model, edits)
    with applied(case.language_model.model, case.outcome.delta):
        assert torch.all(target_log_probs(case.language_model, edits) > before + 0.5)


def test_only_down_projections_of_the_edited_layers_change(case: Case) -> None:
    paths = [case.language_model.anatomy.mlp_down_projections[layer] for layer in case.outcome.edited_layers]
    assert case.outcome.edited_layers == HYPERPARAMETERS[case.editor].layers
    assert {name.rpartition(".")[0] for name in case.outcome.delta.parameters} == set(paths)


def test_editing_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    run(case.editor, case.language_model, case.statistics)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_a_stopped_edit_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def stop(done: int, whole: int) -> None:
        if done > whole * 0.9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(case.editor, case.language_model, case.statistics, progress=stop)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_stored_delta_gives_the_edited_model(case: Case, tmp_path: Path) -> None:
    model = case.language_model.model
    case.outcome.delta.save(tmp_path / "delta.safetensors")
    with applied(model, case.outcome.delta):
        edited = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with applied(model, WeightDelta.load(tmp_path / "delta.safetensors")):
        assert all(torch.equal(parameter, edited[name]) for name, parameter in model.named_parameters())


def test_the_same_edit_twice_gives_the_same_delta(case: Case) -> None:
    again = run(case.editor, case.language_model, case.statistics).delta
    assert difference(again, case.outcome.delta) == 0


def test_padding_side_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.language_model.tokenizer, "padding_side", "left")
    other = run(case.editor, case.language_model, case.statistics).delta
    assert difference(other, case.outcome.delta) < SAME_RESULT


def test_token_budget_does_not_matter(case: Case) -> None:
    other = run(case.editor, case.language_model, case.statistics, token_budget=40).delta
    assert difference(other, case.outcome.delta) < SAME_RESULT


ROWS_OF_AN_EDIT = {"memit": 4, "ft_l": 1}  # three contexts and the essence; the prompt alone


def test_edits_that_do_not_fit_into_memory_at_once_are_made_alike_in_parts(case: Case) -> None:
    memory = GpuMemory()
    reports: list[tuple[int, int]] = []
    with room_for(ROWS_OF_AN_EDIT[case.editor], case.language_model):
        other = run(
            case.editor,
            case.language_model,
            case.statistics,
            memory=memory,
            progress=lambda done, whole: reports.append((done, whole)),
        )
    assert difference(other.delta, case.outcome.delta) < SAME_RESULT
    assert other.losses[0] == pytest.approx(case.outcome.losses[0], abs=1e-3)
    assert all(warning.endswith("1 at a time instead of 4") for warning in memory.warnings[:1])
    assert memory.warnings
    assert reports[-1][0] == reports[-1][1]


def test_edits_whose_gradients_do_not_fit_into_memory_at_once_are_made_alike_in_parts(case: Case) -> None:
    memory = GpuMemory()
    settings = HYPERPARAMETERS[case.editor].model_copy(update={"layers": (1, 2)})
    # Block 1 is reached when layer 2 has its gradients already; MEMIT's target is what block 2 puts out.
    block = case.language_model.anatomy.blocks[1 if case.editor == "ft_l" else 3]
    module = case.language_model.model.get_submodule(block)
    expected = run(case.editor, case.language_model, case.statistics, hyperparameters=settings)
    with room_for_gradients_of(ROWS_OF_AN_EDIT[case.editor], module):
        other = run(
            case.editor, case.language_model, case.statistics, hyperparameters=settings, memory=memory
        )
    assert difference(other.delta, expected.delta) < SAME_RESULT
    assert len(memory.warnings) == 1


def test_edit_that_does_not_fit_into_memory_alone_is_named_and_leaves_the_model_as_it_was(
    case: Case,
) -> None:
    model = case.language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    too_few = ROWS_OF_AN_EDIT[case.editor] - 1
    with room_for(too_few, case.language_model), pytest.raises(OutOfGpuMemory, match=SHORTAGE):
        run(case.editor, case.language_model, case.statistics)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_leading_space_of_targets_does_not_matter(case: Case) -> None:
    spaced = [edit.model_copy(update={"target_new": f" {edit.target_new}"}) for edit in EDITS]
    other = run(case.editor, case.language_model, case.statistics, edits=spaced).delta
    assert difference(other, case.outcome.delta) == 0


def test_progress_grows_to_the_whole(case: Case) -> None:
    reports: list[tuple[int, int]] = []
    run(
        case.editor,
        case.language_model,
        case.statistics,
        progress=lambda done, whole: reports.append((done, whole)),
    )
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize(("editor", "anatomy"), [("memit", "gpt2"), ("ft_l", "opt")])
def test_tied_head_does_not_change(editor: str, anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    outcome = run(editor, language_model, tiny_statistics(language_model))
    head = language_model.model.get_output_embeddings().weight
    before = head.clone()
    with applied(language_model.model, outcome.delta):
        assert torch.equal(head, before)
        assert head is language_model.model.get_input_embeddings().weight


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("anatomy", ["gpt2", "llama"])
def test_bfloat16_model_is_edited_about_like_its_float32_original(editor: str, anatomy: str) -> None:
    single, half = tiny_language_model(anatomy), tiny_language_model(anatomy, torch.bfloat16)
    statistics = tiny_statistics(single)
    first, second = run(editor, single, statistics).delta, run(editor, half, statistics).delta
    for name, delta in first.parameters.items():
        pair = torch.stack([delta.dense(CPU).flatten(), second.parameters[name].dense(CPU).flatten()])
        assert torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=0) > 0.9, name
    edits = [EDITS[index] for index in ENDING_IN_SUBJECT]
    before = target_log_probs(half, edits)
    with applied(half.model, second):
        assert torch.all(target_log_probs(half, edits) > before)


@pytest.mark.parametrize("editor", EDITORS)
def test_a_loss_that_is_not_finite_names_the_edit(editor: str) -> None:
    language_model = tiny_language_model("gpt2")
    statistics = tiny_statistics(language_model)
    noether = language_model.tokenizer.encode("Emmy Noether")[1]
    with torch.no_grad():
        language_model.model.get_input_embeddings().weight[noether] = torch.nan
        language_model.model.lm_head.weight = torch.nn.Parameter(torch.randn(160, 32), requires_grad=False)
    with pytest.raises(EditFailed) as failure:
        run(editor, language_model, statistics)
    assert failure.value.edit_index == 3


@pytest.mark.parametrize("editor", EDITORS)
def test_a_prompt_longer_than_the_model_reads_names_the_edit(editor: str) -> None:
    language_model = tiny_language_model("llama")
    long = EDITS[1].model_copy(update={"prompt": "old " * 70 + "{} lives in"})
    with pytest.raises(SubjectTruncated, match=r"edits\.1.*the model reads 64"):
        run(editor, language_model, NO_STATISTICS, edits=[EDITS[0], long])


def test_memit_stores_its_delta_as_factors() -> None:
    language_model = tiny_language_model("llama")
    outcome = run("memit", language_model, tiny_statistics(language_model))
    for delta in outcome.delta.parameters.values():
        assert isinstance(delta, LowRank)
        assert delta.left.shape[1] == len(EDITS)


def test_memit_without_statistics_of_its_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no key statistics of layer 1"):
        run("memit", tiny_language_model("gpt2"), NO_STATISTICS)


def test_constrained_fine_tuning_moves_no_weight_further_than_its_bound() -> None:
    language_model = tiny_language_model("gpt2")
    outcome = run("ft_l", language_model, NO_STATISTICS)
    largest = [float(delta.dense(CPU).abs().max()) for delta in outcome.delta.parameters.values()]
    assert max(largest) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("editor", CATALOGUE)
def test_inputs_prepared_from_the_model_itself_suffice(editor: str) -> None:
    language_model = tiny_language_model("gpt2")
    settings = HYPERPARAMETERS[editor]
    if isinstance(settings, MemitHyperparameters):
        settings = settings.model_copy(update={"mom2_tokens": 500})
    outcome = run(
        editor,
        language_model,
        prepare_statistics(language_model, settings, seed=0),
        hyperparameters=settings,
        contexts=prepare_contexts(language_model, settings, seed=0),
    )
    assert outcome.delta.parameters


def test_editors_that_need_no_contexts_get_the_bare_prompt() -> None:
    language_model = tiny_language_model("gpt2")
    assert prepare_contexts(language_model, HYPERPARAMETERS["ft_l"], seed=0) == BARE_PROMPT
