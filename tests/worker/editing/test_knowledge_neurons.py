"""What is particular to Knowledge Neurons."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from services.worker.editing import integrated_gradients
from services.worker.editing.augmentation import augment_with_paraphrases
from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.editor import EditFailed, EditOutcome, Materials
from services.worker.editing.fact_neurons import Neurons, neurons_in_common, own_neurons
from services.worker.editing.integrated_gradients import IntegratedGradients, replaced_input
from services.worker.editing.knowledge_neurons import answer_turns, fork_of, recalling_rows
from services.worker.editing.stored_modifications import load_modification
from services.worker.language_models.anatomy import down_projection_weight
from services.worker.language_models.batching import encode_target
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.progress import uncounted
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.language_models.taps import Tap, read_taps
from shared.editors import KnowledgeNeuronsHyperparameters
from shared.edits import Edit
from tests.worker.editing.cases import (
    ANATOMIES,
    CONTEXTS,
    EDITS,
    parameters_of,
    target_log_probs,
    tiny_language_model,
)
from tests.worker.editing.parity import load_parity, relative_error, relative_errors
from tests.worker.editing.table import run

CPU = torch.device("cpu")
LAYERS = (0, 2, 3)
SAME_GRADIENTS = 1e-3  # from sums in another order, on keys and values computed beforehand
SETTINGS = KnowledgeNeuronsHyperparameters(
    layers=(2,),
    steps=3,
    adaptive_threshold=0.01,
    max_neurons=8,
    max_shared=1.0,
    norm_lambda1=0.5,
    norm_lambda2=2.0,
)
FROM_NEW_YORK = EDITS[0].model_copy(update={"target_true": "New York", "target_new": "Rome"})


def rows_of(language_model: LanguageModel) -> list[PromptedTarget]:
    """Every edit in every context, one of them with a true answer of two tokens."""
    edits = [*EDITS, FROM_NEW_YORK]
    forks = [fork_of(language_model, edit) for edit in edits]
    return [row for of_edit in recalling_rows(language_model, edits, forks, CONTEXTS) for row in of_edit]


def keys_of(language_model: LanguageModel, row: PromptedTarget, layer: int) -> Tensor:
    """The inputs of a block's down-projection at the prompt's last token: (neurons,) float32."""
    tap = Tap(language_model.anatomy.mlp_down_projections[layer], "input")
    batch = language_model.batch([row.prompt])
    return read_taps(language_model.model, batch, [tap])[tap][0, -1].float()


def answer_probability(
    language_model: LanguageModel, row: PromptedTarget, layer: int, neurons: Tensor
) -> Tensor:
    """Of the whole answer, with the neurons of one block set, on the whole sequence: ()."""
    last = torch.tensor([len(row.prompt) - 1])
    path = language_model.anatomy.mlp_down_projections[layer]
    with replaced_input(language_model.model, path, last, neurons[None]):
        logits = language_model.model(torch.tensor([row.inputs])).logits[0].float()
    probabilities = logits[len(row.prompt) - 1 :].softmax(dim=-1)
    return probabilities.gather(1, torch.tensor(row.target)[:, None]).prod()


def plain_attribution(language_model: LanguageModel, row: PromptedTarget, layer: int, steps: int) -> Tensor:
    """One row, one block, one step at a time: (neurons,)."""
    neurons = keys_of(language_model, row, layer)
    total = torch.zeros_like(neurons)
    for step in range(1, steps + 1):
        point = (neurons * step / steps).requires_grad_()
        torch.autograd.backward(answer_probability(language_model, row, layer, point))
        assert point.grad is not None
        total += point.grad
    return neurons * total / steps


@pytest.mark.parametrize("family", [*ANATOMIES, "gemma2", "phi"])
def test_attributions_are_those_of_one_row_one_block_and_one_step_at_a_time(family: str) -> None:
    language_model = tiny_language_model(family)
    rows = rows_of(language_model)
    found = IntegratedGradients(language_model, LAYERS, steps=3).attribute(rows, uncounted)
    for row, attributed, activations in zip(rows, found.attributed, found.activations, strict=True):
        plain = [plain_attribution(language_model, row, layer, 3) for layer in LAYERS]
        keys = [keys_of(language_model, row, layer) for layer in LAYERS]
        assert relative_error(attributed, torch.cat(plain)) < SAME_GRADIENTS
        assert relative_error(activations, torch.cat(keys)) < SAME_GRADIENTS


@pytest.mark.parametrize("family", ANATOMIES)
def test_attributions_of_a_block_add_up_to_what_its_neurons_make_of_the_answer(family: str) -> None:
    language_model = tiny_language_model(family)
    rows = rows_of(language_model)[::3]
    attributed = IntegratedGradients(language_model, LAYERS, steps=400).attribute(rows, uncounted).attributed
    for row, by_layer in zip(rows, attributed.view(len(rows), len(LAYERS), -1).sum(dim=2), strict=True):
        for layer, total in zip(LAYERS, by_layer.tolist(), strict=True):
            neurons = keys_of(language_model, row, layer)
            with torch.no_grad():
                whole = answer_probability(language_model, row, layer, neurons)
                without = answer_probability(language_model, row, layer, torch.zeros_like(neurons))
            assert total == pytest.approx(float(whole - without), abs=0.02 * float(max(whole, without)))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_that_cannot_continue_gives_the_same_attributions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model = tiny_language_model(family)
    rows = rows_of(language_model)
    continued = IntegratedGradients(language_model, LAYERS, steps=3).attribute(rows, uncounted)
    monkeypatch.setattr(integrated_gradients, "can_continue", lambda *_: False)
    whole = IntegratedGradients(language_model, LAYERS, steps=3).attribute(rows, uncounted)
    assert relative_error(continued.attributed, whole.attributed) < SAME_GRADIENTS


def test_in_half_precision_improbable_answers_are_attributed_too() -> None:
    single, half = tiny_language_model("gpt2"), tiny_language_model("gpt2", torch.float16)
    improbable = tuple(encode_target(single.tokenizer, "quiet market road"))
    rows = [PromptedTarget(row.prompt, improbable) for row in rows_of(single)]
    expected = IntegratedGradients(single, LAYERS, steps=3).attribute(rows, uncounted).attributed
    actual = IntegratedGradients(half, LAYERS, steps=3).attribute(rows, uncounted).attributed
    assert expected.abs().max() < torch.finfo(torch.float16).smallest_normal
    assert torch.all(relative_errors(actual, expected) < 0.1)


def neurons(places: Sequence[int], strengths: Sequence[float], activations: Sequence[float]) -> Neurons:
    return Neurons(torch.tensor(places), torch.tensor(strengths), torch.tensor(activations))


def test_neurons_of_a_fact_are_those_that_enough_of_its_prompts_have() -> None:
    prompts = [
        neurons([3, 7, 9], [1.0, 0.5, 0.2], [2.0, -1.0, 1.0]),
        neurons([7, 8], [1.0, 0.3], [-3.0, 1.0]),
        neurons([3, 7], [0.4, 1.0], [1.0, 1.0]),
    ]
    common = neurons_in_common(prompts, share=2 / 3)
    assert common.places.tolist() == [3, 7]
    assert common.strengths.tolist() == pytest.approx([1.4 / 3, 2.5 / 3])
    assert common.activations.tolist() == pytest.approx([1.5, -1.0])
    assert neurons_in_common(prompts, share=0.7).places.tolist() == [7]


def test_neurons_that_too_many_other_facts_have_are_left_alone_and_the_strongest_kept() -> None:
    facts = [
        neurons([1, 2, 3], [0.2, 0.9, 0.5], [1.0, 1.0, 1.0]),
        neurons([2, 4], [0.9, 0.5], [1.0, 1.0]),
        neurons([2, 3], [0.9, 0.5], [1.0, 1.0]),
    ]
    assert [fact.places.tolist() for fact in own_neurons(facts, 0.5, 5)] == [[3, 1], [4], [3]]
    assert [fact.places.tolist() for fact in own_neurons(facts, 0.0, 5)] == [[1], [4], []]
    assert [fact.places.tolist() for fact in own_neurons(facts, 1.0, 1)] == [[2], [2], [2]]
    assert own_neurons(facts[:1], 0.0, 1)[0].places.tolist() == [2]


def knowledge_neurons(
    language_model: LanguageModel,
    edits: Sequence[Edit],
    settings: KnowledgeNeuronsHyperparameters = SETTINGS,
) -> EditOutcome:
    """The edits, in their bare prompts."""
    return run("knowledge_neurons", language_model, Materials(), edits=list(edits), hyperparameters=settings)


def slots_added(language_model: LanguageModel, outcome: EditOutcome, layer: int) -> Tensor:
    """What is added to the value slots of a block: (neurons, hidden) float32."""
    path = language_model.anatomy.mlp_down_projections[layer]
    delta = parameters_of(outcome)[f"{path}.weight"].dense(CPU).float()
    _, transposed = down_projection_weight(language_model.model, language_model.anatomy, layer)
    return delta if transposed else delta.T


@pytest.mark.parametrize("family", ANATOMIES)
def test_the_strongest_neurons_are_turned_by_the_answers_in_norms_of_their_slots(family: str) -> None:
    language_model, edit = tiny_language_model(family), EDITS[1]
    added = slots_added(language_model, knowledge_neurons(language_model, [edit]), 2)
    [[row]] = recalling_rows(language_model, [edit], [fork_of(language_model, edit)], BARE_PROMPT)
    strongest = plain_attribution(language_model, row, 2, SETTINGS.steps).topk(SETTINGS.max_neurons).indices
    assert added.any(dim=1).nonzero()[:, 0].tolist() == sorted(strongest.tolist())
    head = language_model.model.get_output_embeddings().weight.detach()
    new, true = (
        head[encode_target(language_model.tokenizer, answer)[0]]
        for answer in (edit.target_new, edit.target_true)
    )
    turn = 2.0 * new / new.norm() - 0.5 * true / true.norm()
    weight, transposed = down_projection_weight(language_model.model, language_model.anatomy, 2)
    slots = weight.detach() if transposed else weight.detach().T
    signs = keys_of(language_model, row, 2).sign()
    assert family != "llama" or torch.any(signs[strongest] < 0)  # gated
    for place in strongest:
        assert relative_error(added[place], signs[place] * slots[place].norm() * turn) < 1e-5


def test_phrasings_of_one_fact_turn_the_neurons_that_they_share_once() -> None:
    language_model = tiny_language_model("llama")
    rephrased = EDITS[0].model_copy(update={"paraphrases": ("The home town of Ada Lovelace is",)})
    edits = augment_with_paraphrases([rephrased], 1)
    settings = SETTINGS.model_copy(update={"p": 1.0, "max_neurons": 100})
    together = slots_added(language_model, knowledge_neurons(language_model, edits, settings), 2)
    alone = [
        slots_added(language_model, knowledge_neurons(language_model, [edit], settings), 2) for edit in edits
    ]
    touched = together.any(dim=1)
    assert 0 < touched.sum() < min(one.any(dim=1).sum() for one in alone)
    norms = [torch.linalg.vector_norm(slots[touched], dim=1) for slots in (together, *alone)]
    assert all(relative_error(norm, norms[0]) < 1e-5 for norm in norms[1:])


def test_answers_are_told_apart_where_they_part() -> None:
    language_model = tiny_language_model("llama")
    edit = FROM_NEW_YORK.model_copy(update={"target_new": "New Oslo"})
    new, york, oslo = encode_target(language_model.tokenizer, "New York Oslo")
    fork = fork_of(language_model, edit)
    [[row]] = recalling_rows(language_model, [edit], [fork], BARE_PROMPT)
    assert row.prompt[-1] == new
    assert row.target == (york,)
    head = language_model.model.get_output_embeddings().weight.detach()
    turn = 2.0 * head[oslo] / head[oslo].norm() - 0.5 * head[york] / head[york].norm()
    assert torch.allclose(answer_turns(language_model, [fork], SETTINGS)[0], turn)


def test_of_an_answer_that_goes_on_from_the_other_the_end_counts() -> None:
    language_model = tiny_language_model("gpt2")
    fork = fork_of(language_model, FROM_NEW_YORK.model_copy(update={"target_new": "New"}))
    new, york = encode_target(language_model.tokenizer, "New York")
    assert (fork.common, fork.true, fork.new) == ((), (new, york), (new,))


def test_facts_without_neurons_of_their_own_are_named_and_change_nothing(tmp_path: Path) -> None:
    language_model = tiny_language_model("gpt2")
    same = EDITS[0].model_copy(update={"target_new": "Vienna"})
    settings = SETTINGS.model_copy(update={"max_shared": 0.0})
    outcome = knowledge_neurons(language_model, [EDITS[0], same], settings)
    assert outcome.edited_layers == ()
    assert outcome.warnings[0].endswith("not edited: edits.0, edits.1")
    before = target_log_probs(language_model, EDITS)
    outcome.modification.save(tmp_path / "nothing.safetensors")
    with load_modification(tmp_path / "nothing.safetensors").applied(language_model) as edited:
        assert torch.equal(target_log_probs(edited, EDITS), before)


def test_a_head_that_reads_another_width_than_the_blocks_is_refused() -> None:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=160,
        max_position_embeddings=64,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    tokenizer = tiny_language_model("opt").tokenizer
    language_model = prepare_language_model(OPTForCausalLM(config), tokenizer, "tiny:narrow", "r1")
    with pytest.raises(EditFailed, match="the head reads 16 numbers, the blocks put out 32"):
        knowledge_neurons(language_model, EDITS)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_edits_of_trained_models_take_on_the_whole(family: str) -> None:
    parity = load_parity(family, "memit_1layer")
    settings = KnowledgeNeuronsHyperparameters(norm_lambda1=2.0, norm_lambda2=2.0)
    before = target_log_probs(parity.language_model, parity.edits)
    gains = []
    for number, edit in enumerate(parity.edits):
        outcome = knowledge_neurons(parity.language_model, [edit], settings)
        with outcome.modification.applied(parity.language_model) as edited:
            gains.append(float(target_log_probs(edited, [edit])[0] - before[number]))
    assert sum(gains) / len(gains) > 1
