"""What is particular to GRACE."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.worker.editing.codebook import Codebook, Entries
from services.worker.editing.editor import EditOutcome, Materials
from services.worker.editing.grace import LOSS_THRESHOLD
from services.worker.language_models.batching import encode_prompts, pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import ModificationMismatch, read_modification
from shared.editors import GraceHyperparameters
from tests.worker.editing.cases import EDITS, target_log_probs, tiny_language_model
from tests.worker.editing.parity import load_parity
from tests.worker.editing.table import TABLE, run

FAR = 1e3  # beyond the keys of the tiny models


def grace(language_model: LanguageModel, **changes: object) -> EditOutcome:
    settings = TABLE["grace"].hyperparameters.model_copy(update=changes)
    return run("grace", language_model, Materials(), hyperparameters=settings)


def codebook_of(outcome: EditOutcome) -> Codebook:
    assert isinstance(outcome.modification, Codebook)
    return outcome.modification


def test_every_token_of_every_target_has_an_entry() -> None:
    targets = ["Paris", "New", "York", "Oslo", "New", "York"]
    assert len(codebook_of(grace(tiny_language_model("gpt2"))).values) == len(targets)


def test_an_edit_that_another_answers_for_learns_nothing_of_its_own() -> None:
    outcome = run("grace", tiny_language_model("gpt2"), Materials(), edits=[EDITS[0], EDITS[0]])
    assert len(codebook_of(outcome).values) == 1
    assert [len(losses) for losses in outcome.losses] == [20, 1]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_stops_when_it_is_learned_and_most_are(family: str) -> None:
    parity = load_parity(family, "memit_1layer")
    settings = GraceHyperparameters(layers=(2,))
    outcome = run("grace", parity.language_model, Materials(), edits=parity.edits, hyperparameters=settings)
    stopped = [losses for losses in outcome.losses if len(losses) < settings.n_iter]
    assert all(losses[-1] < LOSS_THRESHOLD <= losses[-2] for losses in stopped)
    assert len(stopped) > len(parity.edits) / 2


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_token_is_looked_up_alike_whatever_stands_around_its_sequence(family: str, side: str) -> None:
    language_model = tiny_language_model(family)
    codebook = codebook_of(grace(language_model))
    prompts = encode_prompts(
        language_model.tokenizer, [edit.full_prompt for edit in EDITS] + ["The old house is small and quiet"]
    )
    batch = pad(prompts, language_model.pad_token_id, "left" if side == "left" else "right")
    rows = torch.arange(len(prompts))
    with torch.no_grad(), codebook.applied(language_model) as edited:
        together = edited.model(**batch.forward_arguments(edited.model)).logits[
            rows, batch.columns(batch.lengths - 1)
        ]
        alone = torch.stack([edited.model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    assert torch.allclose(together, alone, atol=1e-3)


def test_what_comes_later_does_not_change_what_a_token_is_looked_up_as() -> None:
    language_model = tiny_language_model("gpt2")
    codebook = codebook_of(grace(language_model))
    prompt = encode_prompts(language_model.tokenizer, [EDITS[0].full_prompt])[0]
    with torch.no_grad(), codebook.applied(language_model) as edited:
        short = edited.model(torch.tensor([prompt])).logits[0]
        long = edited.model(torch.tensor([prompt + prompt])).logits[0, : len(prompt)]
    assert torch.allclose(short, long, atol=1e-4)


def test_outside_every_radius_nothing_changes_at_all() -> None:
    language_model = tiny_language_model("llama")
    codebook = codebook_of(grace(language_model))
    ids = torch.tensor(encode_prompts(language_model.tokenizer, ["The old river was quiet"]))
    nowhere = Codebook(
        codebook.layer,
        Entries(codebook.entries.keys + FAR, codebook.entries.radii),
        codebook.values,
        codebook.base_revision,
    )
    with torch.no_grad():
        expected = language_model.model(ids).logits
        with nowhere.applied(language_model) as edited:
            assert torch.equal(edited.model(ids).logits, expected)


def test_an_edit_that_was_split_off_still_holds() -> None:
    language_model = tiny_language_model("gpt2")
    outcome = grace(language_model, eps=FAR, n_iter=100, edit_lr=1.0)
    before = target_log_probs(language_model, EDITS)
    with outcome.modification.applied(language_model) as edited:
        after = target_log_probs(edited, EDITS)
    assert (after - before)[0] > 3  # the first to be put in, since split by others


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_codebook_of_another_model_is_refused(family: str) -> None:
    codebook = codebook_of(grace(tiny_language_model("gpt2")))
    wrong = [
        Codebook(9, codebook.entries, codebook.values, "r1"),
        Codebook(2, Entries(codebook.entries.keys[:, :5], codebook.entries.radii), codebook.values, "r1"),
        Codebook(2, codebook.entries, codebook.values[:, :5], "r1"),
    ]
    for modification in wrong:
        with pytest.raises(ModificationMismatch), modification.applied(tiny_language_model(family)):
            pass


@pytest.mark.parametrize("damage", ["keys", "radii", "values"])
def test_a_codebook_whose_parts_do_not_match_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "codebook.safetensors"
    codebook = codebook_of(grace(tiny_language_model("gpt2")))
    parts: dict[str, Tensor] = {
        "keys": codebook.entries.keys,
        "radii": codebook.entries.radii,
        "values": codebook.values,
    }
    parts[damage] = parts[damage][1:]
    Codebook(2, Entries(parts["keys"], parts["radii"]), parts["values"], "r1").save(path)
    with pytest.raises(ModificationMismatch):
        Codebook.stored(read_modification(path))
