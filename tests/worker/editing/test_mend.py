"""What is particular to MEND: its gradients as factors, its hypernetwork, and how that is trained."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from services.worker.editing import catalogue
from services.worker.editing.catalogue import prepare_hypernetwork
from services.worker.editing.edit_gradients import edit_factors
from services.worker.editing.editor import EditFailed, Materials
from services.worker.editing.fine_tuning import edit_cases, loss_at_target_tokens
from services.worker.editing.gradient_factors import Factors, mlp_weights, updated
from services.worker.editing.hypernetwork import Hypernetwork, load_hypernetwork
from services.worker.editing.hypernetwork_training import (
    TooFewTrainingEdits,
    TrainedHypernetwork,
    train_hypernetwork,
)
from services.worker.editing.lessons import fitting_lessons
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.modification import ModificationMismatch
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from shared.editors import MendHyperparameters
from shared.training_edits import FEWEST_TRAINING_EDITS
from tests.worker.editing.cases import ANATOMIES, EDITS, parameters_of, target_log_probs, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run
from tests.worker.editing.training_edits import training_edits
from tests.worker.scarce_memory import room_for

SETTINGS = TABLE["mend"].hyperparameters
assert isinstance(SETTINGS, MendHyperparameters)
QUICK = SETTINGS.model_copy(update={"training_steps": 3})
EXACT = 1e-4  # sums of float32 in another order


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return tiny_language_model("gpt2")


@pytest.fixture(scope="module")
def hypernetwork(gpt2: LanguageModel) -> Hypernetwork:
    found = prepare_hypernetwork(gpt2, SETTINGS, training_edits())
    assert found is not None
    return found


def fresh(language_model: LanguageModel, **settings: float) -> Hypernetwork:
    """A hypernetwork that has learnt nothing."""
    weights = mlp_weights(language_model, [1, 2])
    return Hypernetwork(weights, "r1", 8, settings.get("edit_lr", 1.0), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("anatomy", ANATOMIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_factors_multiply_to_the_gradient(anatomy: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = tiny_language_model(anatomy)
    monkeypatch.setattr(language_model.tokenizer, "padding_side", side)
    weights, cases = mlp_weights(language_model, [1, 3]), edit_cases(language_model, EDITS)
    _, factors = edit_factors(language_model, weights, cases)
    parameters = [language_model.model.get_parameter(weight.name) for weight in weights]
    for parameter in parameters:
        parameter.requires_grad_(True)
    expected = torch.autograd.grad(loss_at_target_tokens(language_model, cases).sum(), parameters)
    for weight, gradient in zip(weights, expected, strict=True):
        found = factors[weight.path].outputs.T @ factors[weight.path].inputs
        assert relative_error(found.T if weight.transposed else found, gradient) < EXACT, weight.name


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_updates_beside_the_weights_are_what_they_are_inside(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    generator = torch.Generator().manual_seed(1)
    updates, deltas = {}, {}
    for weight in mlp_weights(language_model, [0, 2]):
        inputs = torch.randn(5, weight.inputs, generator=generator) / 5
        outputs = torch.randn(5, weight.outputs, generator=generator) / 5
        updates[weight.path] = Factors(inputs, outputs)
        pair = (inputs.T, outputs) if weight.transposed else (outputs.T, inputs)
        deltas[weight.name] = LowRank(*pair)
    with updated(language_model.model, updates):
        beside = target_log_probs(language_model, EDITS)
    with WeightDelta(deltas, "r1").applied(language_model):
        inside = target_log_probs(language_model, EDITS)
    torch.testing.assert_close(beside, inside, rtol=0, atol=1e-3)
    assert not torch.allclose(beside, target_log_probs(language_model, EDITS), atol=0.1)


def test_untrained_network_takes_a_step_down_the_gradient(gpt2: LanguageModel) -> None:
    network = fresh(gpt2, edit_lr=0.25)
    _, factors = edit_factors(gpt2, network.weights, edit_cases(gpt2, EDITS))
    with torch.no_grad():
        updates = network(factors)
    for path, update in updates.items():
        assert relative_error(update.inputs, factors[path].inputs) < EXACT
        assert relative_error(update.outputs, -0.25 * factors[path].outputs) < EXACT


def test_every_parameter_of_the_network_learns_from_the_start(gpt2: LanguageModel) -> None:
    trained = train_hypernetwork(gpt2, training_edits(), SETTINGS).hypernetwork
    other = train_hypernetwork(gpt2, training_edits(), QUICK).hypernetwork.state_dict()
    for name, value in trained.state_dict().items():
        if name.startswith("networks"):
            assert not torch.equal(value, other[name]), name


def test_inputs_are_normalised_by_the_training_edits(gpt2: LanguageModel) -> None:
    network = fresh(gpt2)
    cases = [lesson.learnt[0] for lesson in fitting_lessons(gpt2, training_edits())]
    _, factors = edit_factors(gpt2, network.weights, cases)
    network.normalise_by([factors])
    with torch.no_grad():
        updates = network(factors)
    for path, update in updates.items():
        z = torch.cat([update.inputs, -update.outputs], dim=1)
        varied = torch.cat([factors[path].inputs, factors[path].outputs], dim=1).std(dim=0) > 0
        assert float(z.mean(dim=0).abs().max()) < EXACT
        torch.testing.assert_close(z.std(dim=0, correction=0)[varied], torch.ones(int(varied.sum())))


def test_what_never_varied_in_training_is_not_blown_up(gpt2: LanguageModel) -> None:
    network = fresh(gpt2)
    weight = network.weights[0]
    still = {w.path: Factors(torch.zeros(4, w.inputs), torch.zeros(4, w.outputs)) for w in network.weights}
    network.normalise_by([still])
    moved = Factors(torch.full((1, weight.inputs), 0.5), torch.full((1, weight.outputs), 0.5))
    update = network({**still, weight.path: moved})[weight.path]
    assert torch.equal(update.inputs, moved.inputs)


def test_training_lowers_what_it_descends(gpt2: LanguageModel) -> None:
    trained = train_hypernetwork(gpt2, training_edits(), SETTINGS)
    pairs = zip(trained.edit_losses, trained.divergences, strict=True)
    losses = [SETTINGS.edit_loss_weight * edit_loss + divergence for edit_loss, divergence in pairs]
    assert fmean(losses[-20:]) < fmean(losses[:20]) - 0.5


def test_same_training_gives_the_same_network_and_another_seed_another(gpt2: LanguageModel) -> None:
    first, second, other = (
        train_hypernetwork(
            gpt2, training_edits(), QUICK.model_copy(update={"seed": seed})
        ).hypernetwork.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_model_as_it_was(gpt2: LanguageModel) -> None:
    before = {name: parameter.clone() for name, parameter in gpt2.model.named_parameters()}

    def stop(done: int, whole: int) -> None:
        if done == whole - 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_hypernetwork(gpt2, training_edits(), QUICK, progress=stop)
    for name, parameter in gpt2.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in gpt2.model.modules())


def test_training_that_does_not_fit_into_memory_at_once_goes_on_in_parts(gpt2: LanguageModel) -> None:
    expected, memory = train_hypernetwork(gpt2, training_edits(), QUICK), GpuMemory()
    with room_for(1, gpt2):
        found = train_hypernetwork(gpt2, training_edits(), QUICK, memory=memory)
    assert found.edit_losses == pytest.approx(expected.edit_losses, abs=1e-3)
    assert found.divergences == pytest.approx(expected.divergences, abs=1e-3)
    assert memory.warnings


def test_training_that_diverges_says_so(gpt2: LanguageModel) -> None:
    settings = SETTINGS.model_copy(update={"training_lr": 1.0, "edit_lr": 100.0, "training_steps": 200})
    with pytest.raises(EditFailed, match="diverged"):
        train_hypernetwork(gpt2, training_edits(), settings)


def test_network_is_the_one_that_was_best_on_edits_held_out(gpt2: LanguageModel) -> None:
    hasty = SETTINGS.model_copy(update={"training_lr": 0.03})
    found = train_hypernetwork(gpt2, training_edits(), hasty)
    best = found.examined.index(min(found.examined))
    assert best < len(found.examined) - 1
    reached = (best + 1) * hasty.training_steps // len(found.examined)
    seen = train_hypernetwork(gpt2, training_edits(), hasty.model_copy(update={"training_steps": reached}))
    expected = seen.hypernetwork.state_dict()
    for name, value in found.hypernetwork.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_progress_of_training_grows_to_the_whole(gpt2: LanguageModel) -> None:
    reports: list[tuple[int, int]] = []
    train_hypernetwork(gpt2, training_edits(), QUICK, progress=lambda *report: reports.append(report))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1][0] == reports[-1][1]


def test_stored_network_makes_the_same_edits(
    gpt2: LanguageModel, hypernetwork: Hypernetwork, tmp_path: Path
) -> None:
    path = tmp_path / "hypernetwork.safetensors"
    hypernetwork.save(path)
    expected = parameters_of(run("mend", gpt2, Materials(hypernetwork=hypernetwork)))
    found = parameters_of(run("mend", gpt2, Materials(hypernetwork=load_hypernetwork(path))))
    for name, delta in expected.items():
        assert torch.equal(found[name].dense(gpt2.device), delta.dense(gpt2.device))


def test_damaged_file_is_no_network(hypernetwork: Hypernetwork, tmp_path: Path) -> None:
    path = tmp_path / "hypernetwork.safetensors"
    hypernetwork.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModificationMismatch):
        load_hypernetwork(path)


def test_network_of_another_model_is_refused(gpt2: LanguageModel, hypernetwork: Hypernetwork) -> None:
    materials = Materials(hypernetwork=hypernetwork)
    with pytest.raises(ModificationMismatch, match="revision r1, not for r2"):
        run("mend", replace(gpt2, revision="r2"), materials)
    elsewhere = SETTINGS.model_copy(update={"layers": (0, 1)})
    with pytest.raises(ModificationMismatch, match="other weights"):
        run("mend", gpt2, materials, hyperparameters=elsewhere)


def test_editing_without_a_network_says_what_is_missing(gpt2: LanguageModel) -> None:
    with pytest.raises(EditFailed, match="hypernetwork"):
        run("mend", gpt2, Materials())


def test_too_few_edits_are_refused_and_prompts_too_long_are_left_out(gpt2: LanguageModel) -> None:
    edits = training_edits()[:FEWEST_TRAINING_EDITS]
    long = edits[0].model_copy(update={"prompt": "old " * 70 + "{} lives in"})
    with pytest.raises(TooFewTrainingEdits, match="19 edits"):
        train_hypernetwork(gpt2, [long, *edits[1:]], QUICK)


def test_update_of_many_tokens_is_stored_whole(gpt2: LanguageModel, hypernetwork: Hypernetwork) -> None:
    materials = Materials(hypernetwork=hypernetwork)
    few = parameters_of(run("mend", gpt2, materials, edits=EDITS[:1]))
    assert all(isinstance(delta, LowRank) for delta in few.values())
    many = parameters_of(run("mend", gpt2, materials, edits=training_edits()))
    assert all(isinstance(delta, Dense) for delta in many.values())
    parts = parameters_of(run("mend", gpt2, materials, edits=training_edits(), token_budget=20))
    for name, delta in many.items():
        assert relative_error(parts[name].dense(gpt2.device), delta.dense(gpt2.device)) < EXACT


def test_network_is_taught_as_many_edits_at_once_as_will_be_made() -> None:
    assert [MendHyperparameters().group_size(count) for count in (1, 30, 51)] == [1, 30, 50]
    assert MendHyperparameters(edits_at_once=7).group_size(30) == 7


def test_number_of_edits_that_will_be_made_tells(gpt2: LanguageModel) -> None:
    open_ended = QUICK.model_copy(update={"edits_at_once": None})
    few, many = (
        train_hypernetwork(gpt2, training_edits(), open_ended, edits_to_make=count).edit_losses
        for count in (1, 8)
    )
    assert few != many


def test_the_last_three_blocks_are_edited_unless_some_are_named() -> None:
    assert MendHyperparameters().edited_layers(6) == (3, 4, 5)
    assert MendHyperparameters().edited_layers(2) == (0, 1)
    assert MendHyperparameters(layers=(1,)).edited_layers(6) == (1,)


def test_training_is_kept_and_only_another_one_is_done_again(
    gpt2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def counted(*arguments: Any, **named: Any) -> TrainedHypernetwork:
        trained.append(named["edits_to_make"])
        return train_hypernetwork(*arguments, **named)

    monkeypatch.setattr(catalogue, "train_hypernetwork", counted)
    edits = training_edits()
    first = prepare_hypernetwork(gpt2, QUICK, edits, edits_to_make=2, kept=tmp_path)
    again = prepare_hypernetwork(gpt2, QUICK, edits, edits_to_make=2, kept=tmp_path)
    assert first is not None
    assert again is not None
    assert trained == [2]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in first.state_dict().items())
    prepare_hypernetwork(gpt2, QUICK, edits[1:], edits_to_make=2, kept=tmp_path)
    assert trained == [2, 2]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    prepare_hypernetwork(gpt2, QUICK, edits, edits_to_make=2, kept=tmp_path)
    assert trained == [2, 2, 2]
