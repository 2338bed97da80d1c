"""Causal tracing, against the same thing done one pass at a time."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from services.worker.editing.causal_tracing import (
    DRAWS,
    FEWEST_FACTS,
    CausalTrace,
    Effect,
    TooFewFactsKnown,
    draw_noise,
    mean_effects,
    trace_facts,
    windows,
)
from services.worker.editing.traced_facts import Fact, TracedFact, facts_in_tokens
from services.worker.language_models.anatomy import hidden_of
from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import Batches, GpuMemory
from services.worker.language_models.progress import untold
from services.worker.language_models.taps import with_hidden
from tests.worker.editing.cases import tiny_language_model
from tests.worker.scarce_memory import room_for
from tests.worker.tiny_models import SUBJECTS

# Nothing in a random model carries a subject to later tokens, so most prompts end in it.
PROMPTS = ["{} lives in", "Home town of {}", "{}", "The old river and the house of {}", "who saw {}"]
TOLERANCE = 1e-6  # of a probability: the same sums in another order
VISIBLE = 1e-3


def known_facts(language_model: LanguageModel) -> list[Fact]:
    """Statements with what a random model itself goes on with, one word or two."""
    facts = []
    asked = [(prompt, subject) for prompt in PROMPTS for subject in SUBJECTS]
    for index, (prompt, subject) in enumerate(asked):
        ids = encode_prompts(language_model.tokenizer, [prompt.replace("{}", subject)])[0]
        words = []
        for _ in range(1 + index % 2):
            ids.append(int(language_model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            words.append(text_of(language_model, ids[-1:]))
        if all(word.startswith(" ") for word in words):
            facts.append(Fact(prompt, subject, "".join(words).strip()))
    return facts


def text_of(language_model: LanguageModel, ids: Sequence[int]) -> str:
    """Tokens as they stand; nothing for those that the model has and the tokenizer does not."""
    return "".join(token or "" for token in language_model.tokenizer.convert_ids_to_tokens(list(ids)))


def trace(language_model: LanguageModel, facts: list[Fact], **changes: object) -> CausalTrace:
    given = {"seed": 3, "batches": Batches(400), "progress": untold, **changes}
    return trace_facts(language_model, facts, **given)  # type: ignore[arg-type]


@torch.no_grad()
def probability(
    language_model: LanguageModel, fact: TracedFact, noise: Tensor | None, restored: dict[str, Tensor]
) -> float:
    """Of the whole answer, in one unpadded pass."""
    model = language_model.model

    def put_back(_module: object, _args: object, output: Tensor, value: Tensor) -> Tensor:
        hidden = hidden_of(output).clone()
        hidden.view(-1, hidden.shape[-1])[fact.last] = value
        return with_hidden(output, hidden)

    def disturb(_module: object, _args: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, fact.first : fact.last + 1] += noise
        return output

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda *given, value=value: put_back(*given, value=value)
        )
        for path, value in restored.items()
    ]
    if noise is not None:
        handles.append(model.get_input_embeddings().register_forward_hook(disturb))
    logits = model(input_ids=torch.tensor([fact.ids])).logits[0].float()
    for handle in handles:
        handle.remove()
    predicting = logits[len(fact.prompt) - 1 :].log_softmax(dim=-1)
    return float(predicting.gather(1, torch.tensor(fact.answer)[:, None]).sum().exp())


@torch.no_grad()
def clean_outputs(language_model: LanguageModel, fact: TracedFact) -> dict[str, Tensor]:
    """What every block and MLP puts out at the subject's last token."""
    seen: dict[str, Tensor] = {}
    anatomy = language_model.anatomy
    handles = [
        language_model.model.get_submodule(path).register_forward_hook(
            lambda _module, _args, output, path=path: seen.update({path: hidden_of(output)})
        )
        for path in (*anatomy.blocks, *anatomy.mlps)
    ]
    language_model.model(input_ids=torch.tensor([fact.ids]))
    for handle in handles:
        handle.remove()
    return {path: value.view(-1, value.shape[-1])[fact.last].clone() for path, value in seen.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma2"])
def test_all_passes_together_give_what_each_gives_alone(family: str) -> None:
    language_model = tiny_language_model(family)
    anatomy = language_model.anatomy
    facts = known_facts(language_model)[:4]
    known = facts_in_tokens(language_model, facts)
    places = [[block] for block in anatomy.blocks]
    places += [list(anatomy.mlps[first:end]) for first, end in windows(4, 2)]
    noise = draw_noise(language_model, known, seed=3)
    gains = torch.zeros(len(known), len(places), dtype=torch.float64)
    for row, fact in enumerate(known):
        clean = clean_outputs(language_model, fact)
        for draw in noise[row]:
            corrupted = probability(language_model, fact, draw, {})
            for column, place in enumerate(places):
                restored = {path: clean[path] for path in place}
                gain = probability(language_model, fact, draw, restored) - corrupted
                gains[row, column] += gain / DRAWS
    traced = trace(language_model, facts)
    assert (traced.facts, traced.width) == (len(known), 2)
    assert max(abs(effect.mean) for effect in traced.states) > VISIBLE
    for ours, theirs in zip((*traced.states, *traced.mlps), mean_effects(gains), strict=True):
        assert vars(ours) == pytest.approx(vars(theirs), abs=TOLERANCE)


def test_padding_side_and_token_budget_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = tiny_language_model("llama")
    facts = known_facts(language_model)
    expected = trace(language_model, facts)
    monkeypatch.setattr(language_model.tokenizer, "padding_side", "left")
    other = trace(language_model, facts, batches=Batches(60))
    for ours, theirs in zip(other.states + other.mlps, expected.states + expected.mlps, strict=True):
        assert vars(ours) == pytest.approx(vars(theirs), abs=TOLERANCE)


def test_facts_that_do_not_fit_into_memory_at_once_give_the_same_effects() -> None:
    language_model, memory = tiny_language_model("gpt2"), GpuMemory()
    facts = known_facts(language_model)[:4]
    expected = trace(language_model, facts)
    with room_for(3, language_model):
        other = trace(language_model, facts, batches=Batches(400, memory))
    assert memory.warnings
    for ours, theirs in zip(other.mlps, expected.mlps, strict=True):
        assert vars(ours) == pytest.approx(vars(theirs), abs=TOLERANCE)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    language_model = tiny_language_model("gpt2")
    facts = known_facts(language_model)
    assert (
        trace(language_model, facts) == trace(language_model, facts) != trace(language_model, facts, seed=4)
    )


def test_facts_that_the_model_does_not_answer_right_are_not_traced() -> None:
    language_model = tiny_language_model("gpt2")
    facts = known_facts(language_model)
    wrong = [Fact(fact.prompt, fact.subject, f"{fact.answer} old") for fact in facts]
    traced = trace(language_model, [*wrong[:3], *facts[:4], *wrong[3:5]])
    assert (traced.candidates, traced.facts) == (9, 4)
    assert traced.states == trace(language_model, facts[:4]).states


def test_too_few_known_facts_are_not_traced() -> None:
    language_model = tiny_language_model("gpt2")
    facts = known_facts(language_model)[: FEWEST_FACTS - 1]
    with pytest.raises(TooFewFactsKnown, match="does so with 2 of 2"):
        trace(language_model, facts)


def test_progress_grows_to_the_whole() -> None:
    told: list[tuple[int, int]] = []
    language_model = tiny_language_model("gpt2")
    trace(
        language_model, known_facts(language_model), progress=lambda done, whole: told.append((done, whole))
    )
    done = [share[0] for share in told]
    assert done == sorted(done)
    assert {whole for _, whole in told} == {done[-1]}


def test_tracing_leaves_the_model_as_it_was_also_when_it_is_stopped() -> None:
    language_model = tiny_language_model("opt")
    model = language_model.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def stop(done: int, whole: int) -> None:
        if done > whole / 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trace(language_model, known_facts(language_model), progress=stop)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("{} lives in", "Grace"),
        ("{} lives in", "Ada Lovelace"),
        ("The city {} was born in", "Alan Turing"),
        ("Home town of {}", "Emmy Noether"),
    ],
)
def test_subject_is_found_from_its_first_token_to_its_last(family: str, prompt: str, subject: str) -> None:
    language_model = tiny_language_model(family)
    (fact,) = facts_in_tokens(language_model, [Fact(prompt, subject, "New York")])
    assert text_of(language_model, fact.subject).strip() == subject
    assert text_of(language_model, fact.ids[len(fact.prompt) :]) == " New"


def test_facts_that_the_model_cannot_read_whole_are_left_out() -> None:
    language_model = tiny_language_model("gpt2")
    long = Fact("old " * 62 + "{} in", "Ada", "New York")
    assert facts_in_tokens(language_model, [long, Fact("{} in", "Ada", "Oslo")])[0].answer
    assert len(facts_in_tokens(language_model, [long, Fact("{} in", "Ada", "Oslo")])) == 1


def effects(*means: float) -> tuple[Effect, ...]:
    return tuple(Effect(mean, mean - 0.1, mean + 0.1) for mean in means)


@pytest.mark.parametrize(
    ("width", "means", "window", "peak"),
    [
        (3, (0.1, 0.3, 0.2, 0.1, 0.0, 0.0), (0, 1, 2), 1),
        (3, (0.9, 0.1, 0.2, 0.3, 0.9, 0.9), (2, 3, 4), 0),
        (2, (0.1, 0.2, 0.3, 0.9), (1, 2), 2),
        (1, (0.5, 0.9), (0,), 0),
        (1, (0.5,), (0,), 0),
    ],
)
def test_window_and_peak_have_the_largest_effect_with_a_block_above_them(
    width: int, means: tuple[float, ...], window: tuple[int, ...], peak: int
) -> None:
    traced = CausalTrace(9, 9, width, 0.9, 0.1, effects(*means), effects(*means))
    assert traced.window == window
    assert traced.peak == peak


def test_intervals_are_those_of_students_t() -> None:
    (effect,) = mean_effects(torch.tensor([[0.1], [0.2], [0.6]], dtype=torch.float64))
    # Standard error 0.1528, and 4.3027 is the 97.5 % point with two degrees of freedom.
    assert effect.mean == pytest.approx(0.3)
    assert effect.high - effect.mean == pytest.approx(4.3027 * 0.152753, rel=1e-4)
    assert effect.low == pytest.approx(0.6 - effect.high)
