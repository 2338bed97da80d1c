"""ROME and R-ROME: the reference numbers, and what is particular to rank-one edits."""

import json
from dataclasses import dataclass

import pytest
import torch

from services.worker.editing.editor import EditFailed, EditingRun, EditOutcome, Materials
from services.worker.editing.key_statistics import KeyStatistics
from services.worker.editing.r_rome import R_ROME
from services.worker.editing.rome import Rome, rank_one_answers
from services.worker.editing.token_positions import prompt_sequences
from services.worker.editing.trace import KeptTrace
from services.worker.language_models.batching import pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.taps import Tap, read_taps
from services.worker.language_models.weight_delta import LowRank
from shared.editors.rome import RomeHyperparameters
from tests.worker.editing.cases import (
    CONTEXTS,
    EDITS,
    parameters_of,
    tiny_language_model,
    tiny_statistics,
)
from tests.worker.editing.parity import FIXTURES, Parity, load_parity, relative_error

# As in the README of the reference numbers; the rest follows from these.
TOLERANCES = {"key_mean": 1e-5, "key_bare": 1e-5, "value_bare": 1e-5, "target": 1e-4, "delta": 1e-3}
FOLLOWING_TOLERANCE = 1e-3  # u and r come out of a solve
LOSS_TOLERANCE = 1e-3  # absolute, in nats
SAME_RESULT = 1e-4

CPU = torch.device("cpu")
SETTINGS = RomeHyperparameters(layers=(2,), v_num_grad_steps=12, v_weight_decay=0.01, context_count=2)


@dataclass(frozen=True)
class RomeRun:
    parity: Parity
    outcome: EditOutcome
    trace: KeptTrace


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def rome_run(request: pytest.FixtureRequest) -> RomeRun:
    parity = load_parity(request.param, "rome")
    trace = KeptTrace()
    outcome = Rome().edit(
        parity.language_model,
        parity.edits,
        RomeHyperparameters.model_validate(parity.hyperparameters),
        Materials(parity.statistics, parity.contexts),
        EditingRun(trace=trace),
    )
    return RomeRun(parity, outcome, trace)


def test_every_reference_number_agrees(rome_run: RomeRun) -> None:
    assert rome_run.parity.expected.keys() == rome_run.trace.tensors.keys()
    for name, expected in rome_run.parity.expected.items():
        tolerance = TOLERANCES.get(name.partition(".")[2], FOLLOWING_TOLERANCE)
        assert relative_error(rome_run.trace.tensors[name], expected) < tolerance, name


def test_losses_and_numbers_of_updates_agree(rome_run: RomeRun) -> None:
    for index, losses in enumerate(rome_run.outcome.losses):
        assert losses[:-1] == pytest.approx(rome_run.parity.trace[f"edit{index}"], abs=LOSS_TOLERANCE)


def test_the_modification_is_the_sum_of_the_reference_deltas(rome_run: RomeRun) -> None:
    (delta,) = parameters_of(rome_run.outcome).values()
    expected = sum(rome_run.parity.expected[f"edit{index}.delta"].double() for index in range(3))
    assert relative_error(delta.dense(CPU), expected) < TOLERANCES["delta"]


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_settings_of_the_reference_run_are_taken_as_they_are(model: str) -> None:
    settings = json.loads((FIXTURES / model / "hparams_rome.json").read_text())
    del settings["edits"]
    RomeHyperparameters.model_validate(settings)


def edit(
    language_model: LanguageModel, editor: Rome, settings: RomeHyperparameters, edits: list = EDITS
) -> tuple[EditOutcome, KeptTrace]:
    trace = KeptTrace()
    materials = Materials(tiny_statistics(language_model), CONTEXTS)
    return editor.edit(language_model, edits, settings, materials, EditingRun(trace=trace)), trace


def down_projection_at_subject(language_model: LanguageModel, context: str) -> torch.Tensor:
    """What the edited down-projection puts out at each edit's subject: (edits, hidden)."""
    tap = Tap(language_model.anatomy.mlp_down_projections[2], "output")
    found = []
    for (sequence,) in prompt_sequences(language_model, EDITS, [context]):
        read = read_taps(language_model.model, pad([sequence.ids], 0, "right"), [tap])[tap]
        found.append(read[0, sequence.subject_position])
    return torch.stack(found)


@pytest.mark.parametrize("anatomy", ["gpt2", "llama"])
@pytest.mark.parametrize("place", range(len(EDITS)))
def test_rome_answers_the_bare_prompt_with_the_target(anatomy: str, place: int) -> None:
    language_model = tiny_language_model(anatomy)
    outcome, trace = edit(language_model, Rome(), SETTINGS, [EDITS[place]])
    with outcome.modification.applied(language_model):
        answer = down_projection_at_subject(language_model, "{}")[place]
    assert relative_error(answer, trace.tensors["edit0.target"]) < SAME_RESULT


@pytest.mark.parametrize("anatomy", ["gpt2", "llama"])
@pytest.mark.parametrize("place", range(len(EDITS)))
def test_r_rome_answers_the_mean_over_contexts_with_the_target(anatomy: str, place: int) -> None:
    language_model = tiny_language_model(anatomy)
    outcome, trace = edit(language_model, R_ROME, SETTINGS, [EDITS[place]])
    with outcome.modification.applied(language_model):
        answers = [down_projection_at_subject(language_model, context)[place] for context in CONTEXTS.flat]
    assert relative_error(torch.stack(answers).mean(dim=0), trace.tensors["edit0.target"]) < SAME_RESULT


def test_without_contexts_the_two_are_the_same() -> None:
    language_model = tiny_language_model("gpt2")
    materials = Materials(tiny_statistics(language_model))
    deltas = [
        parameters_of(editor.edit(language_model, EDITS, SETTINGS, materials, EditingRun()))
        for editor in (Rome(), R_ROME)
    ]
    for name, delta in deltas[0].items():
        assert relative_error(delta.dense(CPU), deltas[1][name].dense(CPU)) < SAME_RESULT


@pytest.mark.parametrize("editor", [Rome(), R_ROME])
def test_edits_in_turn_are_each_made_on_the_weights_left_by_the_others(editor: Rome) -> None:
    language_model = tiny_language_model("llama")
    in_turn = SETTINGS.model_copy(update={"sequential": True})
    outcome, _ = edit(language_model, editor, in_turn, EDITS[:2])
    first, _ = edit(language_model, editor, SETTINGS, EDITS[:1])
    statistics = tiny_statistics(language_model)
    with first.modification.applied(language_model) as edited:
        second = editor.edit(edited, EDITS[1:2], SETTINGS, Materials(statistics, CONTEXTS), EditingRun())
    (name,) = parameters_of(outcome)
    expected = parameters_of(first)[name].dense(CPU) + parameters_of(second)[name].dense(CPU)
    assert relative_error(parameters_of(outcome)[name].dense(CPU), expected) < SAME_RESULT
    together, _ = edit(language_model, editor, SETTINGS, EDITS[:2])
    assert relative_error(parameters_of(together)[name].dense(CPU), expected) > 0.01


def test_an_edit_in_turn_that_fails_is_named_and_the_model_restored() -> None:
    language_model = tiny_language_model("gpt2")
    statistics = tiny_statistics(language_model)
    model = language_model.model
    noether = language_model.tokenizer.encode("Emmy Noether")[1]
    with torch.no_grad():
        model.get_input_embeddings().weight[noether] = torch.nan
        model.lm_head.weight = torch.nn.Parameter(torch.randn(160, 32), requires_grad=False)
    weight = model.get_parameter(f"{language_model.anatomy.mlp_down_projections[2]}.weight")
    before = weight.clone()
    in_turn = SETTINGS.model_copy(update={"sequential": True})
    with pytest.raises(EditFailed) as failure:
        Rome().edit(language_model, EDITS, in_turn, Materials(statistics, CONTEXTS), EditingRun())
    assert failure.value.edit_index == 3
    assert torch.equal(weight, before)


def test_a_few_edits_are_kept_as_factors_of_their_number() -> None:
    outcome, _ = edit(tiny_language_model("llama"), Rome(), SETTINGS)
    (delta,) = parameters_of(outcome).values()
    assert isinstance(delta, LowRank)
    assert delta.left.shape[1] == len(EDITS)


def test_a_key_at_right_angles_to_its_direction_fails_by_index() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(EditFailed, match=r"edits\.1"):
        rank_one_answers(torch.ones(2, 3), torch.zeros(2, 3), keys, directions)


def test_singular_statistics_are_reported() -> None:
    language_model = tiny_language_model("gpt2")
    singular = KeyStatistics({2: torch.ones(128, 128, dtype=torch.float64)}, 1)
    outcome = Rome().edit(language_model, EDITS, SETTINGS, Materials(singular, CONTEXTS), EditingRun())
    assert outcome.ridges[2] > 0
