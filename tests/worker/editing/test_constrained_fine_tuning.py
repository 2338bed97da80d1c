"""What is particular to FT-L."""

import pytest

from services.worker.editing.editor import Materials
from services.worker.language_models.memory import GpuMemory
from tests.worker.editing.cases import parameters_of, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run
from tests.worker.scarce_memory import room_for_gradients_of


def test_no_weight_moves_further_than_its_bound() -> None:
    language_model = tiny_language_model("gpt2")
    deltas = parameters_of(run("ft_l", language_model, Materials())).values()
    largest = max(float(delta.dense(language_model.device).abs().max()) for delta in deltas)
    assert largest == pytest.approx(0.05, rel=1e-4)


def test_edits_whose_gradients_do_not_fit_into_memory_at_once_are_made_alike_in_parts() -> None:
    language_model = tiny_language_model("gpt2")
    settings = TABLE["ft_l"].hyperparameters.model_copy(update={"layers": (1, 2)})
    expected = parameters_of(run("ft_l", language_model, Materials(), hyperparameters=settings))
    memory = GpuMemory()
    # Block 1 is reached when layer 2 has its gradients already.
    block = language_model.model.get_submodule(language_model.anatomy.blocks[1])
    with room_for_gradients_of(1, block):
        found = parameters_of(
            run("ft_l", language_model, Materials(), hyperparameters=settings, memory=memory)
        )
    for name, delta in expected.items():
        assert (
            relative_error(found[name].dense(language_model.device), delta.dense(language_model.device))
            < 1e-3
        )
    assert len(memory.warnings) == 1
