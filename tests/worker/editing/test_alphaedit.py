"""What is particular to AlphaEdit."""

import pytest
import torch
from torch import Tensor

from services.worker.editing.alphaedit import NullSpace
from services.worker.editing.editor import EditFailed
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.layer_updates import ridge_readout
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.weight_delta import LowRank
from shared.editors import AlphaEditHyperparameters, BatchesDoNotFit
from tests.worker.editing.cases import EDITS, parameters_of, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run, with_statistics

CPU = torch.device("cpu")
WIDTH, RANK = 12, 8


def random_keys(count: int, seed: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def null_space(ridge: float) -> tuple[NullSpace, Tensor]:
    """A null space of RANK dimensions among WIDTH, and its projector."""
    axes = torch.linalg.qr(random_keys(WIDTH, seed=0).double()).Q
    values = torch.tensor([1e-4] * RANK + [5.0] * (WIDTH - RANK), dtype=torch.float64)
    statistics = KeyStatistics({1: axes @ torch.diag(values) @ axes.T}, token_count=100)
    settings = AlphaEditHyperparameters(null_space_threshold=0.01, L2=ridge)
    return NullSpace(1, statistics, settings, CPU), axes[:, :RANK] @ axes[:, :RANK].T


@pytest.mark.parametrize("edits", [1, 3, 20])
@pytest.mark.parametrize("earlier", [(), (2,), (2, 5, 30)])
def test_readout_is_the_papers_formula(edits: int, earlier: tuple[int, ...]) -> None:
    space, projector = null_space(ridge=0.3)
    written = [random_keys(count, seed=count) for count in earlier]
    for keys in written:
        space.remember(keys)
    keys = random_keys(edits, seed=100)
    moment = sum((rows.double().T @ rows.double() for rows in [keys, *written]), torch.zeros(()).double())
    system = projector @ moment + 0.3 * torch.eye(WIDTH).double()
    expected = torch.linalg.solve(system, projector @ keys.double().T).T
    assert relative_error(space.readout(keys), expected) < 1e-9


def test_as_many_keys_are_kept_as_there_are_directions() -> None:
    space, _ = null_space(ridge=1.0)
    for seed in range(10):
        space.remember(random_keys(3, seed))
    assert space.earlier.shape == (RANK, RANK)


@pytest.mark.parametrize("count", [2, 40])
def test_nothing_is_written_along_the_keys_of_what_the_model_knows(count: int) -> None:
    space, projector = null_space(ridge=1.0)
    preserved = torch.eye(WIDTH).double() - projector
    assert (space.readout(random_keys(count, seed=1)) @ preserved).abs().max() < 1e-12


def test_few_and_many_keys_meet_where_they_are_as_many_as_dimensions() -> None:
    keys = random_keys(WIDTH, seed=1).double()
    none = keys[:0]
    together = ridge_readout(keys, none, 0.5)
    assert relative_error(ridge_readout(keys[:5], keys[5:], 0.5), together[:5]) < 1e-9
    assert (
        relative_error(ridge_readout(keys[:-1], none, 0.5), ridge_readout(keys[:-1], keys[:1] * 0, 0.5))
        < 1e-9
    )


def test_a_threshold_below_every_singular_value_is_refused_with_the_smallest() -> None:
    language_model = tiny_language_model("llama")
    settings = TABLE["alphaedit"].hyperparameters.model_copy(update={"null_space_threshold": 1e-9})
    with pytest.raises(EditFailed, match=r"layer 1 have no null space.* 1e-09; the smallest is"):
        run("alphaedit", language_model, with_statistics(language_model), hyperparameters=settings)


def test_outcome_tells_how_many_directions_are_free() -> None:
    language_model, trace = tiny_language_model("llama"), KeptTrace()
    outcome = run("alphaedit", language_model, with_statistics(language_model), trace=trace)
    assert outcome.free_directions.keys() == {1, 2}
    for layer, count in outcome.free_directions.items():
        assert 0 < count < 48
        assert float(trace.tensors[f"layer{layer}.P"].trace()) == pytest.approx(count, abs=1e-4)


def test_batches_by_size_and_by_ranges_are_the_same() -> None:
    language_model = tiny_language_model("gpt2")
    materials, by_size = with_statistics(language_model), TABLE["alphaedit"].hyperparameters
    assert by_size.batch_size == 3
    by_ranges = by_size.model_copy(update={"batch_size": None, "batches": ((0, 3), (3, 4))})
    first = parameters_of(run("alphaedit", language_model, materials))
    second = parameters_of(run("alphaedit", language_model, materials, hyperparameters=by_ranges))
    for name, delta in first.items():
        assert torch.equal(delta.dense(CPU), second[name].dense(CPU))


def test_the_last_batch_leaves_what_earlier_ones_wrote() -> None:
    """The last change answers the keys of the first batch with far less than its own."""
    language_model, trace = tiny_language_model("llama"), KeptTrace()
    settings = TABLE["alphaedit"].hyperparameters.model_copy(update={"L2": 1e-6, "layers": (2,)})
    run("alphaedit", language_model, with_statistics(language_model), hyperparameters=settings, trace=trace)
    change, kept = trace.tensors["batch1.layer2.delta"], trace.tensors["layer2.P"]
    answers = [
        torch.linalg.vector_norm(change @ kept @ trace.tensors[f"batch{batch}.layer2.keys"].T, dim=0).mean()
        for batch in (0, 1)
    ]
    assert answers[0] < 0.01 * answers[1]


def test_batches_that_leave_edits_out_are_refused() -> None:
    language_model = tiny_language_model("gpt2")
    settings = AlphaEditHyperparameters(layers=(1,), batches=((0, 2), (2, 3)))
    with pytest.raises(BatchesDoNotFit, match="cover 3 edits of 4"):
        run("alphaedit", language_model, with_statistics(language_model), hyperparameters=settings)


def test_the_changes_of_several_batches_are_stored_as_factors() -> None:
    language_model = tiny_language_model("llama")
    outcome = run("alphaedit", language_model, with_statistics(language_model))
    for delta in parameters_of(outcome).values():
        assert isinstance(delta, LowRank)
        assert delta.left.shape[1] == len(EDITS)
