"""What is particular to IKE."""

from pathlib import Path

import pytest
import torch

from services.worker.editing.demonstrations import Demonstrations
from services.worker.editing.editor import Materials
from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.modification import (
    ModificationMismatch,
    read_modification,
    write_modification,
)
from services.worker.probing.scoring import score
from shared.editors import InContextHyperparameters
from shared.edits import Edit
from shared.measurement import FactKind, Probe, ProbeKind
from shared.recipes import FullUpdate, LoraUpdate, Update
from tests.worker.editing.cases import tiny_language_model
from tests.worker.editing.table import run
from tests.worker.tuning.models import recipe
from tests.worker.tuning.models import run as tune

ANSWER = 4
FACTS = [
    Edit(
        prompt="{} lives in",
        subject="Ada Lovelace",
        target_new=" Paris",
        target_true="Rome",
        paraphrases=("The home of Ada Lovelace is in",),
        neighborhood=("Kurt Goedel lives in",),
    ),
    Edit(
        prompt="{} was born in",
        subject="Alan Turing",
        target_new="Oslo",
        target_true="Berlin",
        paraphrases=("The town of Alan Turing is",),
        neighborhood=("Paul Erdos was born in", "Emmy Noether was born in"),
    ),
    Edit(prompt="{} plays", subject="Grace Hopper", target_new="New York", target_true="Vienna"),
]


def told(prompt: str, *, k: int = 32, edits: list[Edit] = FACTS, context_length: int | None = None) -> str:
    language_model = tiny_language_model("gpt2")
    language_model.model.config.max_position_embeddings = context_length
    settings = InContextHyperparameters(k=k, answer_tokens=ANSWER)
    outcome = run("ike", language_model, Materials(), edits=edits, hyperparameters=settings)
    with outcome.modification.applied(language_model) as edited:
        return edited.preamble(prompt)


def test_the_fact_asked_about_is_stated_last_after_the_others() -> None:
    assert told("Alan Turing was born in") == (
        "New Fact: Grace Hopper plays New York\nPrompt: Grace Hopper plays New York\n\n"
        "New Fact: Ada Lovelace lives in Paris\nPrompt: Kurt Goedel lives in Rome\n\n"
        "New Fact: Alan Turing was born in Oslo\nPrompt: "
    )


def test_facts_asked_about_in_other_words_are_found_by_their_subject() -> None:
    assert told("The town of Alan Turing is", k=0) == "New Fact: Alan Turing was born in Oslo\nPrompt: "


def test_unrelated_prompts_are_told_the_most_similar_facts_too() -> None:
    assert told("The quiet road").count("New Fact") == len(FACTS)


@pytest.mark.parametrize("number", range(4))
def test_as_many_demonstrations_as_asked_for(number: int) -> None:
    assert told("Ada Lovelace lives in", k=number).count("\n\n") == min(number, len(FACTS) - 1)


def test_no_demonstration_answers_the_very_prompt() -> None:
    asked = "Emmy Noether was born in"
    near = Edit(prompt="{} was born in", subject="Emmy Noe", target_new="Rome", target_true="Oslo")
    preamble = told(asked, edits=[near, FACTS[1].model_copy(update={"neighborhood": (asked,)})])
    assert "Alan Turing" in preamble
    assert asked not in preamble


@pytest.mark.parametrize("context_length", [24, 40, 64])
def test_prompt_and_answer_fit_whatever_the_model_reads(context_length: int) -> None:
    language_model = tiny_language_model("gpt2")
    prompt = "Ada Lovelace lives in"
    [ids] = encode_prompts(language_model.tokenizer, [told(prompt, context_length=context_length) + prompt])
    assert len(ids) + ANSWER <= context_length


def test_the_least_similar_demonstrations_are_left_out_first() -> None:
    preamble = told("Alan Turing was born in", context_length=36)
    assert "Ada Lovelace" in preamble
    assert "Grace Hopper" not in preamble


def test_where_not_even_the_fact_fits_nothing_is_told() -> None:
    assert told("Ada Lovelace lives in", context_length=10) == ""


def probe(prompt: str, answer: str) -> Probe:
    return Probe(
        fact_id="edit:0",
        fact_kind=FactKind.EDIT,
        probe_kind=ProbeKind.REWRITE,
        index=0,
        prompt=prompt,
        answer=answer,
        alternative=None,
        relation=None,
    )


def test_probes_are_asked_with_what_is_told_before_them() -> None:
    language_model = tiny_language_model("gpt2")
    settings = InContextHyperparameters(k=1, answer_tokens=ANSWER)
    modification = run("ike", language_model, Materials(), edits=FACTS, hyperparameters=settings).modification
    prompt = "Ada Lovelace lives in"
    with modification.applied(language_model) as edited:
        [scored] = score(edited, [probe(prompt, "New York")])
        text = edited.preamble(prompt) + prompt
    assert scored.log_prob_answer == pytest.approx(log_prob(language_model, text, "New York"), abs=1e-4)
    assert scored.log_prob_answer != pytest.approx(log_prob(language_model, prompt, "New York"), abs=1e-2)


@pytest.mark.parametrize("update", [FullUpdate(), LoraUpdate(rank=4, dropout=0.0)], ids=["full", "lora"])
def test_probes_of_a_tuned_model_are_asked_with_it_too(tmp_path: Path, update: Update) -> None:
    language_model = tiny_language_model("gpt2")
    settings = InContextHyperparameters(k=1, answer_tokens=ANSWER)
    modification = run("ike", language_model, Materials(), edits=FACTS, hyperparameters=settings).modification
    prompt = "Ada Lovelace lives in"
    found: list[tuple[float, float]] = []
    with modification.applied(language_model) as edited:
        text = edited.preamble(prompt) + prompt

        def ask(_step: int) -> None:
            [scored] = score(edited, [probe(prompt, "New York")])
            found.append((scored.log_prob_answer, log_prob(edited, text, "New York")))

        ask(0)
        tune(edited, recipe(update=update), tmp_path, probe=ask)
    assert [scored for scored, _ in found] == pytest.approx([expected for _, expected in found], abs=1e-4)
    assert found[0][0] != pytest.approx(found[-1][0], abs=1e-2)


@torch.no_grad()
def log_prob(language_model: LanguageModel, text: str, answer: str) -> float:
    [prompt] = encode_prompts(language_model.tokenizer, [text])
    target = encode_target(language_model.tokenizer, answer)
    logits = language_model.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(dim=-1).gather(1, torch.tensor(target)[:, None]).sum())


def test_facts_in_any_script_survive_storing(tmp_path: Path) -> None:
    edit = Edit(prompt="{}生于", subject="爱因斯坦", target_new="巴黎", target_true="乌尔姆")
    outcome = run("ike", tiny_language_model("gpt2"), Materials(), edits=[edit])
    outcome.modification.save(tmp_path / "facts.safetensors")
    stored = Demonstrations.stored(read_modification(tmp_path / "facts.safetensors"))
    assert stored == outcome.modification


@pytest.mark.parametrize("content", [b"[]", b"[{}]", b"[7]", b"{", b"\xff"])
def test_damaged_demonstrations_are_refused(tmp_path: Path, content: bytes) -> None:
    tensors = {"facts": torch.tensor(list(content), dtype=torch.uint8)}
    path = tmp_path / "facts.safetensors"
    write_modification(path, "demonstrations", "r1", tensors, count=1, answer_tokens=1)
    with pytest.raises(ModificationMismatch):
        Demonstrations.stored(read_modification(path))
