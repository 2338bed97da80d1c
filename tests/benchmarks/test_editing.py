"""The textbook loop and ours find the same, on the models of the reference numbers."""

import re

import pytest
import torch

from benchmarks import editing, textbook
from services.worker.almanac import MODEL_DIRECTORY
from services.worker.editing.editor import EditingRun, Materials
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.memit import Memit
from services.worker.editing.rome import Rome
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.loading import load_language_model
from shared.editors import ALMANAC, CATALOGUE, MemitHyperparameters, RomeHyperparameters
from tests.worker.editing.parity import load_parity

SAME = 1e-4  # z and weight changes, as ‖x − y‖ / ‖y‖


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_memit_finds_what_the_textbook_loop_finds(model: str) -> None:
    parity = load_parity(model, "memit_3layer")
    settings = MemitHyperparameters.model_validate(parity.hyperparameters)
    materials = Materials(parity.statistics, parity.contexts)
    trace = KeptTrace()
    Memit().edit(parity.language_model, parity.edits, settings, materials, EditingRun(trace=trace))
    expected = textbook.memit(parity.language_model, parity.edits, settings, materials)
    deltas = [trace.tensors[f"layer{layer}.delta"] for layer in settings.edited_layers(4)]
    assert editing.difference(trace.tensors["z"], expected.targets) < SAME
    assert editing.difference(deltas, expected.deltas) < SAME


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_rome_finds_what_the_textbook_loop_finds(model: str) -> None:
    parity = load_parity(model, "rome")
    settings = RomeHyperparameters.model_validate(parity.hyperparameters)
    materials = Materials(parity.statistics, parity.contexts)
    trace = KeptTrace()
    Rome().edit(parity.language_model, parity.edits, settings, materials, EditingRun(trace=trace))
    expected = textbook.rome(parity.language_model, parity.edits, settings, materials)
    edits = range(len(parity.edits))
    targets = torch.stack([trace.tensors[f"edit{index}.target"] for index in edits])
    assert editing.difference(targets, expected.targets) < SAME
    assert (
        editing.difference([trace.tensors[f"edit{index}.delta"] for index in edits], expected.deltas) < SAME
    )


def test_edits_of_the_curve_have_prompts_of_their_own() -> None:
    edits = editing.many_edits(2_000)
    assert len({edit.full_prompt for edit in edits}) == 2_000
    assert all(edit.target_new != edit.target_true for edit in edits)


@pytest.mark.parametrize("editor", editing.EDITORS_COMPARED)
def test_benchmark_of_editing_prints_a_ratio_and_how_far_the_two_agree(
    editor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model = load_language_model(MODEL_DIRECTORY, reference=ALMANAC, revision="test", dtype="float32")
    settings = CATALOGUE[editor].settle(ALMANAC, {"v_num_grad_steps": 3})
    second_moment = torch.eye(language_model.model.config.n_inner, dtype=torch.float64)
    statistics = KeyStatistics(dict.fromkeys(settings.edited_layers(6), second_moment), 1)
    editing.compare(editing.Case(editor, language_model, settings, Materials(statistics)), 2)
    [line] = capsys.readouterr().out.splitlines()
    pattern = r"ratio \d+\.\d; .* of z (\S+), of weight changes (\S+)$"
    found = re.search(pattern, line)
    assert found
    assert all(float(number) < SAME for number in found.groups())
