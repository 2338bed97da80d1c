"""Virtual tokens stand before every sequence, and nobody who asks the model need know of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.worker.language_models.batching import PaddingSide, pad
from services.worker.language_models.loading import LanguageModel
from services.worker.probing.generation import write_greedily
from services.worker.probing.scoring import ProbeTooLong, score
from services.worker.steps.failures import StepFailed
from services.worker.steps.recipe_fitting import check_recipe
from services.worker.tuning.errors import RecipeDoesNotFit
from services.worker.tuning.freezing import NOTHING
from services.worker.tuning.updates import check_update_fits, trainable
from services.worker.tuning.updates.virtual_tokens import ENCODER
from shared.edits import Edit
from shared.measurement import FactKind, Probe, ProbeKind
from shared.recipes import PromptTuningUpdate
from tests.worker.editing.cases import EDITS, target_log_probs
from tests.worker.editing.cases import tiny_language_model as model_to_edit
from tests.worker.editing.table import TABLE
from tests.worker.editing.table import run as edit
from tests.worker.tuning.models import recipe, tiny_language_model
from tests.worker.tuning.updates.table import FAMILIES, VIRTUAL

COUNT = 3
SAME = 1e-4  # float32, in nats
ROWS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16]]
PROMPTS = ["Ada Lovelace lives in", "The market of", "Grace Hopper was born in the small town of"]


@contextmanager
def with_virtual_tokens(kind: str, family: str) -> Iterator[LanguageModel]:
    """A model that has learnt some: others than it began with."""
    model = tiny_language_model(family)
    with trainable(model, VIRTUAL[kind], NOTHING) as learner:
        torch.manual_seed(2)
        encoder = learner.model.get_submodule(ENCODER)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(torch.randn_like(weight) * weight.std())
        learner.model.eval()
        with learner.as_deployed(), torch.no_grad():
            yield model


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_padded_batch_say_what_each_says_alone(family: str, side: PaddingSide, kind: str) -> None:
    plain = tiny_language_model(family).model(torch.tensor([ROWS[1]])).logits
    with with_virtual_tokens(kind, family) as model:
        batch = pad(ROWS, 0, side)
        together = model.model(**batch.forward_arguments(model.model), use_cache=False).logits
        assert together.shape[:2] == batch.input_ids.shape
        alone = [model.model(torch.tensor([row])).logits[0] for row in ROWS]
    for row, expected in enumerate(alone):
        found = together[row][batch.attention_mask[row].bool()]
        assert torch.allclose(found.log_softmax(-1), expected.log_softmax(-1), atol=SAME)
    assert (alone[1] - plain[0]).abs().max() > 0.1


def test_learnt_embeddings_of_real_tokens_are_those_tokens() -> None:
    before = [21, 22, 23]
    model = tiny_language_model("gpt2")
    with trainable(model, PromptTuningUpdate(virtual_tokens=COUNT), NOTHING) as learner, torch.no_grad():
        table = model.model.get_parameter(f"{model.anatomy.embedding}.weight")
        learner.model.get_parameter(f"{ENCODER}.embedding.weight").copy_(table[before])
        learner.model.eval()
        found = model.model(torch.tensor([ROWS[0]])).logits
    expected = tiny_language_model("gpt2").model(torch.tensor([before + ROWS[0]])).logits[:, COUNT:]
    assert torch.allclose(found, expected, atol=SAME)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_keys_and_values_begin_as_those_of_tokens(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    before = [21, 22, 23]
    model = tiny_language_model(family)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(before))
    with trainable(model, VIRTUAL["prefix_tuning"], NOTHING) as learner, torch.no_grad():
        learner.model.eval()
        found = model.model(torch.tensor([ROWS[0]])).logits
    expected = tiny_language_model(family).model(torch.tensor([before + ROWS[0]])).logits[:, COUNT:]
    assert torch.allclose(found, expected, atol=SAME)


def probes() -> list[Probe]:
    return [
        Probe(
            fact_id=f"edit:{index}",
            fact_kind=FactKind.EDIT,
            probe_kind=ProbeKind.REWRITE,
            index=0,
            prompt=prompt,
            answer="New York",
            alternative="Rome",
        )
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma2", "neox"])
def test_scores_are_the_same_in_any_batch(family: str, kind: str) -> None:
    plain = [scored.log_prob_answer for scored in score(tiny_language_model(family), probes())]
    with with_virtual_tokens(kind, family) as model:
        alone = [score(model, [probe])[0] for probe in probes()]
        for side in ("left", "right"):
            together = score(model, probes(), padding_side=side)
            for found, expected in zip(together, alone, strict=True):
                assert found.log_prob_answer == pytest.approx(expected.log_prob_answer, abs=SAME)
                assert (found.exact, found.predicted_token) == (expected.exact, expected.predicted_token)
        ids = model.tokenizer.encode(PROMPTS[0]) + model.tokenizer.encode(" New York")
        logits = model.model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    by_hand = float(logits[-2, ids[-2]] + logits[-1, ids[-1]])
    assert alone[0].log_prob_answer == pytest.approx(by_hand, abs=SAME)
    assert abs(alone[0].log_prob_answer - plain[0]) > 100 * SAME


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_texts_are_written_on_kept_keys_as_without(family: str, kind: str) -> None:
    with with_virtual_tokens(kind, family) as model:
        written = write_greedily(model, ROWS, [4] * len(ROWS))
        for row, tokens in zip(ROWS, written, strict=True):
            assert tokens
            for place, token in enumerate(tokens):
                logits: Tensor = model.model(torch.tensor([row + tokens[:place]])).logits
                assert int(logits[0, -1].argmax()) == token


@pytest.mark.parametrize("kind", VIRTUAL)
def test_positions_that_they_take_are_not_there_for_others(kind: str) -> None:
    model = tiny_language_model()
    assert model.context_length == 64
    long = "the " * 63
    with with_virtual_tokens(kind, "gpt2") as deployed:
        assert deployed.context_length == 61
        with pytest.raises(ProbeTooLong, match="61 positions"):
            score(deployed, [replace(probes()[0], prompt=long)])
    score(model, [replace(probes()[0], prompt=long)])
    with pytest.raises(RecipeDoesNotFit, match="64 virtual tokens fill the model's 64 positions"):
        check_update_fits(model, VIRTUAL[kind].model_copy(update={"virtual_tokens": 64}), NOTHING)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_sequences_and_probes_must_fit_beside_them(kind: str) -> None:
    model = tiny_language_model()
    chosen = recipe(update=VIRTUAL[kind], sequence_length=61)
    fact = Edit.model_validate(
        {
            "prompt": "{} lives in " + "the " * 60,
            "subject": "Ada",
            "target_new": "Rome",
            "target_true": "Oslo",
        }
    )
    check_recipe(model, chosen, {0: EDITS[0]}, [ProbeKind.REWRITE])
    with pytest.raises(StepFailed, match=r"tiny: 3 virtual tokens leave too little room: edits\.7"):
        check_recipe(model, chosen, {7: fact}, [ProbeKind.REWRITE])
    longer = chosen.model_copy(update={"sequence_length": 62})
    with pytest.raises(StepFailed, match="tiny: sequence_length 62 with 3 virtual tokens exceeds"):
        check_recipe(model, longer, {0: EDITS[0]}, [ProbeKind.REWRITE])


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("editor", ["grace", "wise", "ike"])
def test_edits_beside_the_weights_hold_with_them(tmp_path: Path, editor: str, kind: str) -> None:
    model = model_to_edit("gpt2")
    modification = edit(editor, model, TABLE[editor].materials(model)).modification
    with modification.applied(model) as edited, trainable(edited, VIRTUAL[kind], NOTHING) as learner:
        learner.model.eval()
        with learner.as_deployed():
            together = target_log_probs(edited, EDITS)
            alone = torch.cat([target_log_probs(edited, [one]) for one in EDITS])
    assert torch.allclose(together, alone, atol=SAME)
