"""Agreement with public implementations, on the numbers in tests/fixtures/parity."""

from dataclasses import dataclass

import pytest
import torch

from services.worker.editing.constrained_fine_tuning import ConstrainedFineTuning
from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.editor import EditOutcome
from services.worker.editing.key_statistics import NO_STATISTICS
from services.worker.editing.memit import LayerUpdate, Memit, update_layers
from services.worker.editing.target_optimisation import TargetVectors, optimise_targets
from services.worker.editing.target_requests import target_requests
from services.worker.language_models.memory import Batches
from services.worker.language_models.progress import WorkDone, uncounted, untold
from services.worker.language_models.weight_delta import applied
from shared.editors import ConstrainedFineTuningHyperparameters, MemitHyperparameters
from tests.worker.editing.cases import target_log_probs
from tests.worker.editing.parity import Parity, load_parity, relative_error, relative_errors

KEY_TOLERANCE = 1e-5  # one forward pass apart
TARGET_TOLERANCE = 1e-4  # some thirty updates apart
DELTA_TOLERANCE = 1e-3  # the solve multiplies what the targets differ by
LOSS_TOLERANCE = 1e-3  # absolute, in nats

CPU = torch.device("cpu")
MEMIT_RUNS = [(model, run) for model in ("gpt2", "llama") for run in ("memit_1layer", "memit_3layer")]


@dataclass(frozen=True)
class MemitRun:
    parity: Parity
    targets: TargetVectors
    updates: list[LayerUpdate]
    outcome: EditOutcome


@pytest.fixture(scope="module", params=MEMIT_RUNS, ids="-".join)
def memit_run(request: pytest.FixtureRequest) -> MemitRun:
    parity = load_parity(*request.param)
    model = parity.language_model
    settings = MemitHyperparameters.model_validate(parity.hyperparameters)
    requests = target_requests(model, parity.edits, parity.contexts)
    layers = settings.edited_layers(4)
    targets = optimise_targets(
        model, requests, layers[-1], settings, batches=Batches(8_192), work=WorkDone(untold, whole=1)
    )
    updates = update_layers(
        model,
        requests,
        targets.vectors,
        layers,
        settings.mom2_update_weight,
        parity.statistics,
        parity.contexts,
        batches=Batches(8_192),
        advance=uncounted,
    )
    outcome = Memit().edit(
        model,
        parity.edits,
        settings,
        statistics=parity.statistics,
        contexts=parity.contexts,
        progress=lambda _done, _whole: None,
    )
    return MemitRun(parity, targets, updates, outcome)


def test_memit_target_vectors_agree(memit_run: MemitRun) -> None:
    assert relative_errors(memit_run.targets.vectors, memit_run.parity.expected["z"]).max() < TARGET_TOLERANCE


def test_memit_makes_as_many_updates_per_edit(memit_run: MemitRun) -> None:
    counts = [len(losses) - 1 for losses in memit_run.targets.losses]
    assert counts == [len(memit_run.parity.trace[f"edit{index}"]) for index in range(len(counts))]


def test_memit_losses_agree_at_every_update(memit_run: MemitRun) -> None:
    for index, losses in enumerate(memit_run.targets.losses):
        assert losses[:-1] == pytest.approx(memit_run.parity.trace[f"edit{index}"], abs=LOSS_TOLERANCE)


def test_memit_keys_agree_in_every_layer(memit_run: MemitRun) -> None:
    for update in memit_run.updates:
        expected = memit_run.parity.expected[f"layer{update.layer}.keys"]
        assert relative_errors(update.keys, expected).max() < KEY_TOLERANCE


def test_memit_gaps_agree_in_every_layer(memit_run: MemitRun) -> None:
    for update in memit_run.updates:
        expected = memit_run.parity.expected[f"layer{update.layer}.zgap"]
        assert relative_errors(update.gap, expected).max() < TARGET_TOLERANCE


def test_memit_weight_deltas_agree_in_every_layer(memit_run: MemitRun) -> None:
    for update in memit_run.updates:
        actual = memit_run.outcome.delta.parameters[update.parameter].dense(CPU)
        expected = memit_run.parity.expected[f"layer{update.layer}.delta"]
        assert relative_error(actual, expected) < DELTA_TOLERANCE


def test_memit_edits_of_trained_models_take_on_the_whole(memit_run: MemitRun) -> None:
    language_model, edits = memit_run.parity.language_model, memit_run.parity.edits
    before = target_log_probs(language_model, edits)
    with applied(language_model.model, memit_run.outcome.delta):
        assert (target_log_probs(language_model, edits) - before).mean() > 3


@pytest.fixture(scope="module")
def fine_tuned() -> tuple[Parity, EditOutcome]:
    parity = load_parity("gpt2", "ftl")
    outcome = ConstrainedFineTuning().edit(
        parity.language_model,
        parity.edits,
        ConstrainedFineTuningHyperparameters.model_validate(parity.hyperparameters),
        statistics=NO_STATISTICS,
        contexts=BARE_PROMPT,
        progress=lambda _done, _whole: None,
    )
    return parity, outcome


def test_constrained_fine_tuning_losses_agree_at_every_update(fine_tuned: tuple[Parity, EditOutcome]) -> None:
    parity, outcome = fine_tuned
    assert outcome.losses[0] == pytest.approx(parity.trace["losses"], abs=LOSS_TOLERANCE)


def test_constrained_fine_tuning_weight_deltas_agree(fine_tuned: tuple[Parity, EditOutcome]) -> None:
    parity, outcome = fine_tuned
    assert outcome.delta.parameters.keys() == parity.expected.keys()
    for name, expected in parity.expected.items():
        assert relative_error(outcome.delta.parameters[name].dense(CPU), expected) < DELTA_TOLERANCE
