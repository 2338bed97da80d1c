"""What is particular to EMMET."""

import pytest
import torch
from torch import Tensor

from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.editor import Materials
from services.worker.editing.emmet import constrained_readout
from services.worker.editing.memit import key_readout
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.taps import Tap, read_taps
from shared.editors import EmmetHyperparameters, MemitHyperparameters
from tests.worker.editing.cases import EDITS, parameters_of, tiny_language_model, tiny_statistics
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run

CPU = torch.device("cpu")
WIDTH, HIDDEN = 12, 5


def problem(edits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (edits, WIDTH), gaps (edits, HIDDEN) and a second moment."""
    generator = torch.Generator().manual_seed(edits)
    keys = torch.randn(edits, WIDTH, generator=generator)
    gaps = torch.randn(edits, HIDDEN, generator=generator)
    root = torch.randn(WIDTH, WIDTH, generator=generator).double()
    return keys, gaps, root @ root.T


@pytest.mark.parametrize("edits", [1, 3, 11])
def test_every_key_is_answered_with_exactly_its_edit(edits: int) -> None:
    keys, gaps, moment = problem(edits)
    readout, ridge = constrained_readout(keys, moment)
    assert ridge == 0
    change = gaps.double().T @ readout
    assert relative_error(change @ keys.double().T, gaps.double().T) < 1e-8


def test_no_other_change_that_keeps_the_constraint_moves_preserved_keys_less() -> None:
    keys, gaps, moment = problem(3)
    change = gaps.double().T @ constrained_readout(keys, moment)[0]  # (HIDDEN, WIDTH)
    least = torch.trace(change @ moment @ change.T)
    answering_nothing = torch.eye(WIDTH).double() - torch.linalg.pinv(keys.double()) @ keys.double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = change + 0.01 * torch.randn(HIDDEN, WIDTH, generator=generator).double() @ answering_nothing
        assert relative_error(other @ keys.double().T, gaps.double().T) < 1e-8
        assert torch.trace(other @ moment @ other.T) > least


def test_one_edit_is_written_as_rome_writes_it() -> None:
    keys, gaps, moment = problem(1)
    emmet = gaps.double().T @ constrained_readout(keys, moment)[0]
    direction = torch.linalg.inv(moment) @ keys[0].double()
    direction /= torch.linalg.vector_norm(direction)  # u
    rome = torch.outer(gaps[0].double() / (keys[0].double() @ direction), direction)  # r uᵀ
    assert relative_error(emmet, rome) < 1e-9


def test_memit_comes_to_the_same_when_preserved_keys_weigh_next_to_nothing() -> None:
    keys, _, moment = problem(3)
    expected, _ = constrained_readout(keys, moment)
    assert relative_error(key_readout(keys, moment, 1e-9)[0], expected) < 1e-6


def test_slack_is_what_the_publication_adds_to_the_inner_matrix() -> None:
    language_model, trace = tiny_language_model("gpt2"), KeptTrace()
    statistics = tiny_statistics(language_model)
    settings = TABLE["emmet"].hyperparameters.model_copy(
        update={"layers": (2,), "constraint_slack": 0.3, "mom2_update_weight": 0.7}
    )
    materials = Materials(statistics, BARE_PROMPT)
    run("emmet", language_model, materials, hyperparameters=settings, trace=trace)
    columns = trace.tensors["layer2.keys"].double().T
    inverse = torch.linalg.inv(0.7 * statistics.second_moments[2])
    inner = columns.T @ inverse @ columns + 0.3 * torch.eye(len(EDITS)).double()
    readout = torch.linalg.inv(inner) @ columns.T @ inverse
    expected = (trace.tensors["layer2.zgap"].double().T @ readout).T  # in the layout of Conv1D
    assert relative_error(trace.tensors["layer2.delta"], expected) < 1e-6


@pytest.mark.parametrize("anatomy", ["gpt2", "llama"])
def test_without_slack_the_edited_layer_puts_out_the_targets(anatomy: str) -> None:
    language_model, trace = tiny_language_model(anatomy), KeptTrace()
    materials = Materials(tiny_statistics(language_model), BARE_PROMPT)
    settings = TABLE["emmet"].hyperparameters.model_copy(update={"layers": (2,), "constraint_slack": 0.0})
    outcome = run("emmet", language_model, materials, hyperparameters=settings, trace=trace)
    tap = Tap(language_model.anatomy.blocks[2], "output")
    with outcome.modification.applied(language_model):
        for edit, target in zip(EDITS, trace.tensors["z"], strict=True):
            ids = language_model.tokenizer(edit.full_prompt.partition(edit.subject)[0] + edit.subject)
            batch = language_model.batch([ids["input_ids"]])
            put_out = read_taps(language_model.model, batch, [tap])[tap]
            assert relative_error(put_out[0, -1], target) < 1e-4


def test_one_edit_is_exact_whatever_the_slack() -> None:
    language_model = tiny_language_model("gpt2")
    materials = Materials(tiny_statistics(language_model), BARE_PROMPT)
    with_slack = TABLE["emmet"].hyperparameters.model_copy(update={"constraint_slack": 0.5})
    exact = with_slack.model_copy(update={"constraint_slack": 0.0})
    first, second = (
        parameters_of(run("emmet", language_model, materials, edits=EDITS[:1], hyperparameters=settings))
        for settings in (with_slack, exact)
    )
    for name, delta in first.items():
        assert torch.equal(delta.dense(CPU), second[name].dense(CPU))


def test_by_default_one_block_is_edited() -> None:
    assert EmmetHyperparameters().edited_layers(28) == (5,)
    assert EmmetHyperparameters().edited_layers(6) == MemitHyperparameters().edited_layers(6)[-1:]
    assert EmmetHyperparameters(layers=(1, 2)).edited_layers(28) == (1, 2)
