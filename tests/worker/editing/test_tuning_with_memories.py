"""Fine-tuning a model that carries its edits beside its weights, and probing it afterwards."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import Modification
from shared.recipes import FullUpdate, LoraUpdate, Update
from tests.worker.editing.cases import EDITS, ENDING_IN_SUBJECT, target_log_probs, tiny_language_model
from tests.worker.editing.table import TABLE, run
from tests.worker.tuning.models import changed, recipe, weights_of
from tests.worker.tuning.models import run as tune

MEMORIES = ["grace", "wise"]
UPDATES = [FullUpdate(), LoraUpdate(rank=4, dropout=0.0)]
TAKEN = [EDITS[index] for index in ENDING_IN_SUBJECT]
UNRELATED = "The old house of Kurt"


@dataclass(frozen=True)
class Tuned:
    """What the last probe of a tuning finds: the weights, and answers with the memory at work."""

    weights: dict[str, Tensor]
    target_log_probs: Tensor
    unrelated: Tensor


@torch.no_grad()
def logits_after(language_model: LanguageModel, prompt: str) -> Tensor:
    ids = torch.tensor(encode_prompts(language_model.tokenizer, [prompt]))
    logits: Tensor = language_model.model(ids).logits[0, -1]
    return logits


def tuned(language_model: LanguageModel, modification: Modification, update: Update, workdir: Path) -> Tuned:
    found: list[Tuned] = []
    with modification.applied(language_model) as edited:

        def probe(step: int) -> None:
            found.append(
                Tuned(weights_of(edited), target_log_probs(edited, TAKEN), logits_after(edited, UNRELATED))
            )

        tune(edited, recipe(update=update, learning_rate=1e-4), workdir, probe=probe)
    return found[-1]


@pytest.mark.parametrize("editor", MEMORIES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("update", UPDATES, ids=["full", "lora"])
def test_probes_see_both_the_tuned_weights_and_the_memory(
    tmp_path: Path, editor: str, family: str, update: Update
) -> None:
    language_model = tiny_language_model(family)
    modification = run(editor, language_model, TABLE[editor].materials(language_model)).modification
    before = target_log_probs(language_model, TAKEN)
    weights = weights_of(language_model)
    with modification.applied(language_model) as edited:
        untuned = logits_after(edited, UNRELATED)
    found = tuned(language_model, modification, update, tmp_path)
    assert torch.all(found.target_log_probs > before + 0.5)
    assert not torch.allclose(found.unrelated, untuned, atol=1e-4)
    assert changed(weights, weights_of(language_model)) == set()
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in language_model.model.modules()
    )


@pytest.mark.parametrize("editor", MEMORIES)
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_weights_learn_below_the_memory_as_well_as_above(tmp_path: Path, editor: str, family: str) -> None:
    language_model = tiny_language_model(family)
    modification = run(editor, language_model, TABLE[editor].materials(language_model)).modification
    before = weights_of(language_model)
    moved = changed(before, tuned(language_model, modification, FullUpdate(), tmp_path).weights)
    for block in language_model.anatomy.blocks:
        assert any(name.startswith(f"{block}.") for name in moved)


@pytest.mark.parametrize("editor", MEMORIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("update", UPDATES, ids=["full", "lora"])
def test_models_in_half_precision_are_tuned_with_a_memory_too(
    tmp_path: Path, editor: str, dtype: torch.dtype, update: Update
) -> None:
    language_model = tiny_language_model("llama", dtype)
    single = tiny_language_model("llama")
    modification = run(editor, language_model, TABLE[editor].materials(single)).modification
    before = target_log_probs(language_model, TAKEN)
    found = tuned(language_model, modification, update, tmp_path)
    assert torch.all(found.target_log_probs > before)
