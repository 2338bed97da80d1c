"""What is particular to MEMIT."""

from dataclasses import replace

import pytest
import torch

from services.worker.editing.editor import Materials
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.weight_delta import LowRank
from tests.worker.editing.cases import EDITS, parameters_of, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.editing.table import TABLE, run, with_statistics
from tests.worker.scarce_memory import room_for_gradients_of
from tests.worker.tiny_models import tiny_tokenizer


def test_memit_stores_its_delta_as_factors() -> None:
    language_model = tiny_language_model("llama")
    outcome = run("memit", language_model, with_statistics(language_model))
    for delta in parameters_of(outcome).values():
        assert isinstance(delta, LowRank)
        assert delta.left.shape[1] == len(EDITS)


def test_memit_without_statistics_of_its_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no key statistics of layer 1"):
        run("memit", tiny_language_model("gpt2"), Materials())


def test_targets_whose_gradients_do_not_fit_into_memory_at_once_are_found_alike_in_parts() -> None:
    language_model = tiny_language_model("gpt2")
    materials = with_statistics(language_model)
    expected = parameters_of(run("memit", language_model, materials))
    memory = GpuMemory()
    block = language_model.model.get_submodule(language_model.anatomy.blocks[3])
    with room_for_gradients_of(TABLE["memit"].rows_of_an_edit or 0, block):
        found = parameters_of(run("memit", language_model, materials, memory=memory))
    for name, delta in expected.items():
        assert (
            relative_error(found[name].dense(language_model.device), delta.dense(language_model.device))
            < 1e-3
        )
    assert len(memory.warnings) == 1


def test_a_tokenizer_that_ends_texts_with_eos_gives_the_same_delta() -> None:
    language_model = tiny_language_model("llama")
    materials = with_statistics(language_model)
    expected = parameters_of(run("memit", language_model, materials))
    with_eos = replace(language_model, tokenizer=tiny_tokenizer(adds_bos=True, adds_eos=True))
    found = parameters_of(run("memit", with_eos, materials))
    for name, delta in expected.items():
        assert torch.equal(found[name].dense(torch.device("cpu")), delta.dense(torch.device("cpu")))
