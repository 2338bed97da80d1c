"""Batched scoring says what the plain forward pass says, whatever the batch looks like."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from services.worker.language_models.batching import encode_prompts, encode_target
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.memory import GpuMemory, OutOfGpuMemory
from services.worker.probing import scoring
from services.worker.probing.scoring import LOG_PROB_OF_NOTHING, ProbeTooLong, score, until_different
from shared.measurement import FactKind, Probe, ProbeKind, ProbeScore
from tests.worker.scarce_memory import SHORTAGE, room_for
from tests.worker.tiny_models import CONFIGS, PLACES, SUBJECTS, tiny_model, tiny_tokenizer

# float32 sums over 32 to 64 features in another order
LOG_PROB_TOLERANCE = 1e-5


def language_model(family: str, *, adds_bos: bool = False, seed: int = 0) -> LanguageModel:
    return prepare_language_model(
        tiny_model(family, seed=seed), tiny_tokenizer(adds_bos=adds_bos), f"tiny:{family}", "0"
    )


def probe(prompt: str, answer: str, alternative: str | None = None, index: int = 0) -> Probe:
    return Probe(
        fact_id=f"edit:{index}",
        fact_kind=FactKind.EDIT,
        probe_kind=ProbeKind.REWRITE,
        index=0,
        prompt=prompt,
        answer=answer,
        alternative=alternative,
    )


def some_probes() -> list[Probe]:
    """Prompts of several lengths, answers of one and of two tokens, with and without alternatives."""
    prompts = [f"{subject} lives in the city of" for subject in SUBJECTS]
    prompts += [f"The old town and home of {subject} is" for subject in SUBJECTS]
    prompts += ["The", "She walked and saw the quiet river because the letter was in"]
    return [
        probe(prompt, PLACES[index % 6], PLACES[(index + 1) % 6] if index % 4 else None, index)
        for index, prompt in enumerate(prompts)
    ]


def plain_log_probs(model: LanguageModel, prompt: str, target: str) -> tuple[list[float], list[int]]:
    """Log-probability of each target token and argmax there, from one unpadded forward with all logits."""
    prompt_ids = encode_prompts(model.tokenizer, [prompt])[0]
    target_ids = encode_target(model.tokenizer, target)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt_ids + target_ids])).logits[0].float()
    at = logits[len(prompt_ids) - 1 : -1].log_softmax(dim=-1)
    wanted = torch.tensor(target_ids)
    return at.gather(1, wanted[:, None])[:, 0].tolist(), at.argmax(dim=-1).tolist()


def assert_same(found: list[ProbeScore], expected: list[ProbeScore]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.first_token, one.exact, one.preference, one.alternative_exact, one.predicted_token) == (
            other.first_token,
            other.exact,
            other.preference,
            other.alternative_exact,
            other.predicted_token,
        )
        assert one.log_prob_answer == pytest.approx(other.log_prob_answer, abs=LOG_PROB_TOLERANCE)
        assert one.log_prob_alternative == pytest.approx(other.log_prob_alternative, abs=LOG_PROB_TOLERANCE)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_scores_are_those_of_the_plain_forward_with_all_logits(family: str) -> None:
    model = language_model(family)
    for given, found in zip(some_probes(), score(model, some_probes()), strict=True):
        log_probs, argmax = plain_log_probs(model, given.prompt, given.answer)
        assert found.log_prob_answer == pytest.approx(sum(log_probs), abs=1e-4)
        assert found.first_token == (argmax[0] == encode_target(model.tokenizer, given.answer)[0])
        assert found.exact == (argmax == encode_target(model.tokenizer, given.answer))
        assert found.predicted_token == model.tokenizer.decode([argmax[0]])
        same = [
            one == other
            for one, other in zip(argmax, encode_target(model.tokenizer, given.answer), strict=True)
        ]
        until = argmax if all(same) else argmax[: same.index(False) + 1]
        assert found.predicted_answer == model.tokenizer.decode(until)
        if given.alternative is not None:
            log_probs, argmax = plain_log_probs(model, given.prompt, given.alternative)
            assert found.log_prob_alternative == pytest.approx(sum(log_probs), abs=1e-4)


def test_an_answer_is_shown_until_it_differs_from_the_one_asked_for() -> None:
    assert until_different((5, 7, 9), (5, 6, 9)) == (5, 7)
    assert until_different((4, 6, 9), (5, 6, 9)) == (4,)
    assert until_different((5, 6, 9), (5, 6, 9)) == (5, 6, 9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "gemma2"])
def test_batched_equals_one_at_a_time(family: str) -> None:
    model = language_model(family, adds_bos=family == "llama")
    one_at_a_time = [score(model, [given])[0] for given in some_probes()]
    assert_same(score(model, some_probes()), one_at_a_time)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "opt", "gemma2"])
def test_left_padding_equals_right_padding(family: str) -> None:
    model = language_model(family, adds_bos=family == "llama")
    left = score(model, some_probes(), padding_side="left")
    assert_same(left, score(model, some_probes(), padding_side="right"))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_tokenizer_that_ends_texts_with_eos_gives_the_same_scores(adds_bos: bool) -> None:
    model = language_model("llama", adds_bos=adds_bos)
    with_eos = replace(model, tokenizer=tiny_tokenizer(adds_bos=adds_bos, adds_eos=True))
    assert_same(score(with_eos, some_probes()), score(model, some_probes()))


def test_token_budget_does_not_matter() -> None:
    model = language_model("llama")
    assert_same(score(model, some_probes(), token_budget=1), score(model, some_probes(), token_budget=10_000))


def test_splitting_by_logits_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2")
    together = score(model, some_probes())
    monkeypatch.setattr(scoring, "MAX_LOGITS", 1)
    assert_same(score(model, some_probes()), together)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_prompts_that_do_not_fit_into_memory_at_once_are_scored_alike_in_parts(
    family: str, rows: int
) -> None:
    model, memory = language_model(family), GpuMemory()
    together = score(model, some_probes())
    with room_for(rows, model):
        assert_same(score(model, some_probes(), memory=memory), together)
    (warning,) = memory.warnings
    assert warning.startswith("ran out of GPU memory; prompts were scored")


def test_prompt_that_does_not_fit_into_memory_alone_is_named_and_leaves_the_mode_as_it_was() -> None:
    model = language_model("gpt2")
    model.model.train()
    with room_for(0, model), pytest.raises(OutOfGpuMemory, match=SHORTAGE):
        score(model, some_probes())
    assert all(module.training for module in model.model.modules())


def test_progress_counts_the_probes_up_to_all() -> None:
    model = language_model("gpt2")
    told: list[tuple[int, int]] = []
    with room_for(2, model):
        score(model, some_probes(), progress=lambda done, whole: told.append((done, whole)))
    done = [share[0] for share in told]
    assert len(told) > 4
    assert done == sorted(done)
    assert {whole for _, whole in told} == {len(some_probes())} == {done[-1]}


def test_spaces_at_the_boundary_do_not_matter() -> None:
    model = language_model("gpt2")
    spaced = [
        probe(f"{given.prompt} ", f" {given.answer} ", given.alternative and f" {given.alternative}")
        for given in some_probes()
    ]
    assert_same(score(model, spaced), score(model, some_probes()))


def test_exact_is_that_greedy_generation_starts_with_exactly_the_answer() -> None:
    model = language_model("gpt2", seed=3)
    verdicts = set()
    for prompt in [given.prompt for given in some_probes()]:
        prompt_ids = torch.tensor(encode_prompts(model.tokenizer, [prompt]))
        generated = model.model.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            max_new_tokens=2,
            min_new_tokens=2,
            do_sample=False,
            pad_token_id=0,
        )[0, prompt_ids.shape[1] :].tolist()
        for answer in (" ".join(model.tokenizer.decode([token]).strip() for token in generated), "New York"):
            expected = encode_target(model.tokenizer, answer) == generated
            assert score(model, [probe(prompt, answer)])[0].exact == expected
            verdicts.add(expected)
    assert verdicts == {True, False}


def test_bos_is_in_front_of_the_prompt_where_the_tokenizer_adds_it() -> None:
    given = [probe("The city of", "Rome")]
    with_bos, without = (score(language_model("llama", adds_bos=adds), given)[0] for adds in (True, False))
    assert with_bos.log_prob_answer != pytest.approx(without.log_prob_answer, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_scored_in_float32(dtype: torch.dtype) -> None:
    model = language_model("llama")
    model.model.to(dtype)
    found = score(model, some_probes())
    for given, one in zip(some_probes(), found, strict=True):
        log_probs, _ = plain_log_probs(model, given.prompt, given.answer)
        assert one.log_prob_answer == pytest.approx(sum(log_probs), rel=0.02, abs=0.1)
    assert any(torch.tensor(one.log_prob_answer).to(dtype).item() != one.log_prob_answer for one in found)


def test_preference_compares_the_answer_with_the_alternative() -> None:
    model = language_model("gpt2")
    there, back = score(model, [probe("The city of", "Rome", "Paris"), probe("The city of", "Paris", "Rome")])
    assert there.preference == (there.log_prob_answer > there.log_prob_alternative)
    assert there.preference != back.preference


def test_preference_is_not_scored_without_an_alternative() -> None:
    found = score(language_model("gpt2"), [probe("The city of", "Rome")])[0]
    assert (found.preference, found.log_prob_alternative, found.alternative_exact) == (None, None, None)


def test_equal_continuations_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2")
    rows = 0
    plain_pad = scoring.pad

    def counting_pad(sequences, pad_token_id, side):  # type: ignore[no-untyped-def]
        nonlocal rows
        rows += len(sequences)
        return plain_pad(sequences, pad_token_id, side)

    monkeypatch.setattr(scoring, "pad", counting_pad)
    # One-token answers are predicted from the prompt alone, so that all of these read the same row.
    score(model, [probe("The city of", "Rome", "Paris"), probe("The city of ", " Paris", "Rome")] * 3)
    assert rows == 1


def test_dropout_is_off_while_scoring_and_back_on_afterwards() -> None:
    model = language_model("gpt2")
    expected = score(model, some_probes())
    model.model.train()
    assert_same(score(model, some_probes()), expected)
    assert all(module.training for module in model.model.modules())


def test_a_diverged_model_gets_nothing_right_and_stays_storable() -> None:
    model = language_model("llama")
    with torch.no_grad():
        model.model.get_parameter(f"{model.anatomy.head}.weight").fill_(float("nan"))
    found = score(model, [probe("The city of", "Rome", "Paris")])[0]
    assert (found.first_token, found.exact, found.preference) == (False, False, False)
    assert found.log_prob_answer == LOG_PROB_OF_NOTHING


def test_a_probe_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ProbeTooLong, match="70 tokens exceed the model's 64 positions"):
        score(language_model("gpt2"), [probe(" ".join(["town"] * 70), "Rome")])


def test_no_probes_give_no_scores() -> None:
    assert score(language_model("gpt2"), []) == []
