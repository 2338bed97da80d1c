"""What several answers or prompts begin with is read once, and nothing is scored otherwise for it."""

from __future__ import annotations

import pytest

from services.worker.language_models.batching import pad
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.prompted_target import PromptedTarget
from services.worker.probing import scoring
from services.worker.probing.forks import lay_out
from services.worker.probing.scoring import score
from shared.measurement import Probe
from tests.worker.probing.test_scoring import assert_same, language_model, probe
from tests.worker.tiny_models import CONFIGS, PLACES, SUBJECTS

PREAMBLE = (
    "She walked in the quiet city and they saw the old river and the small house because he was born in"
)
PROMPT = (1, 2, 3, 4, 5, 6)


def prompts_with_a_preamble() -> list[Probe]:
    """More than are needed for the preamble to be read once, and some without it."""
    asked = [
        f"{subject} {verb}" for subject in SUBJECTS for verb in ("lives in", "plays a sport in the city of")
    ]
    told = [f"{PREAMBLE} {prompt}" for prompt in asked]
    return [
        probe(prompt, PLACES[index % 6], PLACES[(index + 1) % 6] if index % 3 else None, index)
        for index, prompt in enumerate([*told, *asked[:4]])
    ]


@pytest.fixture
def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each batch that is laid out to be read, padding included."""
    read: list[int] = []

    def counting_pad(sequences, pad_token_id, side):  # type: ignore[no-untyped-def]
        batch = pad(sequences, pad_token_id, side)
        read.append(batch.input_ids.numel())
        return batch

    for module in ("scoring", "shared_reading"):
        monkeypatch.setattr(f"services.worker.probing.{module}.pad", counting_pad)
    return read


def unshared(model: LanguageModel, probes: list[Probe], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "can_continue", lambda *_: False)
        return score(model, probes)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_scores_are_those_of_whole_rows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, probes = language_model(family, adds_bos=family == "llama"), prompts_with_a_preamble()
    assert_same(score(model, probes), unshared(model, probes, monkeypatch))
    assert_same(score(model, probes, token_budget=80), unshared(model, probes, monkeypatch))


def test_what_is_shared_is_read_once(tokens_read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, probes = language_model("gpt2"), prompts_with_a_preamble()
    unshared(model, probes, monkeypatch)
    whole = sum(tokens_read)
    tokens_read.clear()
    score(model, probes)
    preamble = len(PREAMBLE.split())
    assert tokens_read.count(preamble) == 1
    assert sum(tokens_read) < whole / 2


def test_an_answer_is_scored_in_the_row_of_a_longer_one_that_begins_with_the_same() -> None:
    short, longer, other = (PromptedTarget(PROMPT, target) for target in ((7,), (7, 8), (9, 8)))
    (group,) = lay_out([short, longer, other], sharing=True)
    assert [(row.beginning, row.end, row.members) for row in group.rows] == [
        (PROMPT[:-1], (6, 7), (1, 0)),
        (PROMPT[:-1], (6, 9), (2,)),
    ]
    assert (group.shared, group.apart) == (0, True)


def test_a_prompt_with_one_row_is_read_whole() -> None:
    (group,) = lay_out([PromptedTarget(PROMPT, (7,)), PromptedTarget(PROMPT, (8,))], sharing=True)
    assert (group.shared, group.apart) == (0, False)
    assert [(row.beginning, row.inputs, row.members) for row in group.rows] == [((), PROMPT, (0, 1))]


def test_nothing_is_shared_where_it_must_not_be() -> None:
    many = [PromptedTarget((*range(40), last), (1, target)) for last in range(9) for target in (2, 3)]
    assert {(group.shared, group.apart) for group in lay_out(many, sharing=False)} == {(0, False)}
    assert {(group.shared, group.apart) for group in lay_out(many, sharing=True)} == {(40, False)}


def test_prompts_that_share_more_are_read_apart_from_those_that_share_less() -> None:
    short, long = tuple(range(20)), tuple(range(60))
    prompts = [(*short, 100 + last) for last in range(8)] + [(*long, 100 + last) for last in range(8)]
    groups = lay_out([PromptedTarget(prompt, (1,)) for prompt in prompts], sharing=True)
    assert sorted((group.shared, len(group.rows)) for group in groups) == [(20, 8), (60, 8)]


@pytest.mark.parametrize("sharing", [True, False])
def test_every_continuation_is_a_member_of_one_row_that_reads_its_inputs(sharing: bool) -> None:
    continuations = [
        PromptedTarget((*range(length), first), target)
        for length in (3, 17, 18, 40)
        for first in range(5)
        for target in ((1,), (1, 2), (3, 4, 5), (1, 2, 6))
    ]
    rows = [row for group in lay_out(continuations, sharing=sharing) for row in group.rows]
    assert sorted(index for row in rows for index in row.members) == list(range(len(continuations)))
    for row in rows:
        for index in row.members:
            inputs = continuations[index].inputs
            assert row.inputs[: len(inputs)] == inputs
            assert row.shared < len(continuations[index].prompt)
