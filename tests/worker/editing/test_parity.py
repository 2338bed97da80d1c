"""Agreement with public implementations, on the numbers in tests/fixtures/parity."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from services.worker.editing.catalogue import EDITORS
from services.worker.editing.constrained_fine_tuning import ConstrainedFineTuning
from services.worker.editing.editor import EditingRun, EditOutcome, Materials
from services.worker.editing.trace import KeptTrace
from shared.editors import CATALOGUE, ConstrainedFineTuningHyperparameters
from tests.worker.editing.cases import parameters_of, target_log_probs
from tests.worker.editing.parity import Parity, load_parity, relative_error, relative_errors

KEY_TOLERANCE = 1e-5  # one forward pass apart
TARGET_TOLERANCE = 1e-4  # some thirty updates apart
DELTA_TOLERANCE = 1e-3  # the solve multiplies what the targets differ by
PROJECTOR_TOLERANCE = 1e-4  # the reference decomposes in float32
LOSS_TOLERANCE = 1e-3  # absolute, in nats

CPU = torch.device("cpu")
KEY_VALUE_RUNS = {
    "memit_1layer": "memit",
    "memit_3layer": "memit",
    "alphaedit": "alphaedit",
    "alphaedit_2batches": "alphaedit",
}


@dataclass(frozen=True)
class KeyValueRun:
    """A run of an editor that writes key-value pairs, beside what the reference came to."""

    name: str
    parity: Parity
    traced: dict[str, Tensor]
    outcome: EditOutcome

    def pairs(self, last: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Ours and the reference's, of every tensor whose name ends so."""
        names = [name for name in self.parity.expected if name.rpartition(".")[2] == last]
        assert names
        for name in names:
            yield self.traced[name], self.parity.expected[name]


@pytest.fixture(
    scope="module",
    params=[(model, run) for run in KEY_VALUE_RUNS for model in ("gpt2", "llama")],
    ids="-".join,
)
def key_value_run(request: pytest.FixtureRequest) -> KeyValueRun:
    model, name = request.param
    editor, parity, trace = KEY_VALUE_RUNS[name], load_parity(model, name), KeptTrace()
    outcome = EDITORS[editor].edit(
        parity.language_model,
        parity.edits,
        CATALOGUE[editor].hyperparameters.model_validate(parity.hyperparameters),
        Materials(parity.statistics, parity.contexts),
        EditingRun(trace=trace),
    )
    return KeyValueRun(name, parity, trace.tensors, outcome)


def test_target_vectors_agree(key_value_run: KeyValueRun) -> None:
    for ours, theirs in key_value_run.pairs("z"):
        assert relative_errors(ours, theirs).max() < TARGET_TOLERANCE


def test_as_many_updates_are_made_per_edit(key_value_run: KeyValueRun) -> None:
    counts = [len(losses) - 1 for losses in key_value_run.outcome.losses]
    assert counts == [len(key_value_run.parity.trace[f"edit{index}"]) for index in range(len(counts))]


def test_losses_agree_at_every_update(key_value_run: KeyValueRun) -> None:
    for index, losses in enumerate(key_value_run.outcome.losses):
        theirs = key_value_run.parity.trace[f"edit{index}"]
        assert losses[:-1] == pytest.approx(theirs, abs=LOSS_TOLERANCE)


def test_keys_agree_in_every_layer(key_value_run: KeyValueRun) -> None:
    for ours, theirs in key_value_run.pairs("keys"):
        assert relative_errors(ours, theirs).max() < KEY_TOLERANCE


def test_gaps_agree_in_every_layer(key_value_run: KeyValueRun) -> None:
    for ours, theirs in key_value_run.pairs("zgap"):
        assert relative_errors(ours, theirs).max() < TARGET_TOLERANCE


def test_weight_deltas_agree_in_every_layer(key_value_run: KeyValueRun) -> None:
    for ours, theirs in key_value_run.pairs("delta"):
        assert relative_error(ours, theirs) < DELTA_TOLERANCE


def test_the_modification_is_the_sum_of_the_weight_deltas(key_value_run: KeyValueRun) -> None:
    outcome, expected = key_value_run.outcome, key_value_run.parity.expected
    for layer, delta in zip(outcome.edited_layers, parameters_of(outcome).values(), strict=True):
        theirs = [tensor for name, tensor in expected.items() if name.endswith(f"layer{layer}.delta")]
        assert relative_error(delta.dense(CPU), torch.stack(theirs).sum(dim=0)) < DELTA_TOLERANCE


@pytest.mark.parametrize(
    "key_value_run",
    [(model, "alphaedit_2batches") for model in ("gpt2", "llama")],  # whose fixtures hold projectors
    indirect=True,
    ids="-".join,
)
def test_null_space_projectors_agree(key_value_run: KeyValueRun) -> None:
    for ours, theirs in key_value_run.pairs("P"):
        assert relative_error(ours, theirs) < PROJECTOR_TOLERANCE


def test_as_many_directions_are_free(key_value_run: KeyValueRun) -> None:
    ranks = key_value_run.parity.trace.get("rank", {})
    assert {str(layer): rank for layer, rank in key_value_run.outcome.free_directions.items()} == ranks


def test_edits_of_trained_models_take_on_the_whole(key_value_run: KeyValueRun) -> None:
    language_model, edits = key_value_run.parity.language_model, key_value_run.parity.edits
    before = target_log_probs(language_model, edits)
    with key_value_run.outcome.modification.applied(language_model):
        assert (target_log_probs(language_model, edits) - before).mean() > 3


@pytest.fixture(scope="module")
def fine_tuned() -> tuple[Parity, EditOutcome]:
    parity = load_parity("gpt2", "ftl")
    outcome = ConstrainedFineTuning().edit(
        parity.language_model,
        parity.edits,
        ConstrainedFineTuningHyperparameters.model_validate(parity.hyperparameters),
        Materials(),
        EditingRun(),
    )
    return parity, outcome


def test_constrained_fine_tuning_losses_agree_at_every_update(fine_tuned: tuple[Parity, EditOutcome]) -> None:
    parity, outcome = fine_tuned
    assert outcome.losses[0] == pytest.approx(parity.trace["losses"], abs=LOSS_TOLERANCE)


def test_constrained_fine_tuning_weight_deltas_agree(fine_tuned: tuple[Parity, EditOutcome]) -> None:
    parity, outcome = fine_tuned
    assert parameters_of(outcome).keys() == parity.expected.keys()
    for name, expected in parity.expected.items():
        assert relative_error(parameters_of(outcome)[name].dense(CPU), expected) < DELTA_TOLERANCE
