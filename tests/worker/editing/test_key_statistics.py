import os
from pathlib import Path

import pytest
import torch

from services.worker.editing import corpora
from services.worker.editing.corpora import Corpus, GivenTexts, Reading, SampledTexts
from services.worker.editing.key_statistics import (
    UNFINISHED,
    KeyStatistics,
    NotPositive,
    collect_key_statistics,
    solve_positive,
    solve_second_moment,
)
from services.worker.editing.memit import key_readout
from services.worker.language_models.batching import encode_prompts
from services.worker.language_models.loading import LanguageModel
from services.worker.language_models.memory import GpuMemory
from services.worker.language_models.progress import Progress, untold
from tests.worker.editing.cases import ANATOMIES, random_texts, tiny_language_model
from tests.worker.editing.parity import relative_error
from tests.worker.scarce_memory import room_for

TEXTS = [*random_texts()[:10], "the old market", "Ada"]


class ForbiddenCorpus(GivenTexts):
    """The same corpus, which must not be read again."""

    def read(self, language_model: LanguageModel, progress: Progress, memory: GpuMemory) -> Reading:
        raise AssertionError("the statistics were computed although they are stored")


def sequences_of(corpus: Corpus, language_model: LanguageModel, first: int = 0) -> list[list[int]]:
    """Everything that is read from a portion on."""
    reading = corpus.read(language_model, untold, GpuMemory())
    return [list(sequence) for portion in reading.portions_from(first) for sequence in portion]


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_moments_are_means_over_all_tokens_of_texts_taken_alone(anatomy: str) -> None:
    language_model = tiny_language_model(anatomy)
    seen: list[torch.Tensor] = []
    module = language_model.model.get_submodule(language_model.anatomy.mlp_down_projections[1])
    handle = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0].flatten(0, -2)))
    for ids in encode_prompts(language_model.tokenizer, TEXTS):
        language_model.model(input_ids=torch.tensor([ids]))
    handle.remove()
    keys = torch.cat(seen).double()
    statistics = collect_key_statistics(language_model, GivenTexts(TEXTS), [1, 2], token_budget=100)
    assert statistics.token_count == len(keys)
    assert relative_error(statistics.second_moments[1], keys.T @ keys / len(keys)) < 1e-6


def test_bos_counts_as_a_token() -> None:
    language_model = tiny_language_model("llama")
    statistics = collect_key_statistics(language_model, GivenTexts(["Ada lives"]), [0], token_budget=100)
    assert statistics.token_count == 3


def test_a_limit_cuts_the_corpus_to_that_many_tokens() -> None:
    language_model = tiny_language_model("gpt2")
    limited = GivenTexts(TEXTS, token_count=33)
    assert collect_key_statistics(language_model, limited, [0], token_budget=100).token_count == 33


def test_texts_that_do_not_fit_into_memory_at_once_give_the_same_moments() -> None:
    language_model, corpus, memory = tiny_language_model("gpt2"), GivenTexts(TEXTS), GpuMemory()
    expected = collect_key_statistics(language_model, corpus, [1, 2], token_budget=200)
    with room_for(3, language_model):
        found = collect_key_statistics(language_model, corpus, [1, 2], token_budget=200, memory=memory)
    assert memory.warnings == ["ran out of GPU memory; texts were read 3 at a time instead of 6"]
    assert found.token_count == expected.token_count
    for layer in (1, 2):
        assert relative_error(found.second_moments[layer], expected.second_moments[layer]) < 1e-6


@pytest.mark.parametrize("corpus", [GivenTexts(TEXTS), SampledTexts(token_count=700, seed=0)])
def test_progress_counts_the_tokens_written_and_read(corpus: GivenTexts | SampledTexts) -> None:
    told: list[tuple[int, int]] = []
    statistics = collect_key_statistics(
        tiny_language_model("gpt2"),
        corpus,
        [1],
        token_budget=100,
        progress=lambda done, whole: told.append((done, whole)),
    )
    done = [share[0] for share in told]
    assert done == sorted(done)
    assert {whole for _, whole in told} == {2 * statistics.token_count} == {done[-1]}
    written = [count for count in done if count <= statistics.token_count]
    assert len(written) == (63 if isinstance(corpus, SampledTexts) else 1)  # once per column of a round


def test_stored_statistics_are_read_back_unchanged(tmp_path: Path) -> None:
    language_model = tiny_language_model("gpt2")
    first = collect_key_statistics(
        language_model, GivenTexts(TEXTS), [1, 2], token_budget=100, cache=tmp_path
    )
    again = collect_key_statistics(
        language_model, ForbiddenCorpus(TEXTS), [1, 2], token_budget=100, cache=tmp_path
    )
    assert again.token_count == first.token_count
    assert all(torch.equal(again.second_moments[layer], first.second_moments[layer]) for layer in (1, 2))


def test_stored_statistics_serve_another_choice_of_layers(tmp_path: Path) -> None:
    language_model = tiny_language_model("gpt2")
    collect_key_statistics(language_model, GivenTexts(TEXTS), [1, 2], token_budget=100, cache=tmp_path)
    again = collect_key_statistics(
        language_model, ForbiddenCorpus(TEXTS), [2], token_budget=100, cache=tmp_path
    )
    assert again.second_moments.keys() == {2}


@pytest.mark.parametrize("left", [0, 40])
def test_stored_statistics_that_were_cut_off_are_computed_again(tmp_path: Path, left: int) -> None:
    language_model = tiny_language_model("gpt2")
    first = collect_key_statistics(language_model, GivenTexts(TEXTS), [1], token_budget=100, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:left])
    again = collect_key_statistics(language_model, GivenTexts(TEXTS), [1], token_budget=100, cache=tmp_path)
    assert torch.equal(again.second_moments[1], first.second_moments[1])


@pytest.mark.parametrize("change", ["revision", "texts"])
def test_stored_statistics_do_not_serve_another_model_or_corpus(tmp_path: Path, change: str) -> None:
    language_model = tiny_language_model("gpt2")
    collect_key_statistics(language_model, GivenTexts(TEXTS), [1], token_budget=100, cache=tmp_path)
    other = LanguageModel(
        language_model.model, language_model.tokenizer, language_model.anatomy, "tiny:gpt2", "r2"
    )
    collect_key_statistics(
        other if change == "revision" else language_model,
        GivenTexts(TEXTS[:5] if change == "texts" else TEXTS),
        [1],
        token_budget=100,
        cache=tmp_path,
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_sampled_corpus_has_the_tokens_asked_for_and_bos_where_it_belongs() -> None:
    sequences = sequences_of(SampledTexts(token_count=700, seed=0), tiny_language_model("llama"))
    assert sum(len(sequence) for sequence in sequences) == 700
    assert all(sequence[0] == 0 and 0 not in sequence[1:] for sequence in sequences)


def test_sampled_corpus_of_a_tokenizer_without_bos_holds_no_special_token() -> None:
    sequences = sequences_of(SampledTexts(token_count=700, seed=0), tiny_language_model("gpt2"))
    assert all(0 not in sequence for sequence in sequences)


def test_sampled_corpus_is_given_by_its_seed() -> None:
    language_model = tiny_language_model("gpt2")
    first, again, other = (
        sequences_of(SampledTexts(token_count=100, seed=seed), language_model) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora of the tests are read in several portions."""
    monkeypatch.setattr(corpora, "PORTION_TOKENS", 60)
    monkeypatch.setattr(corpora, "SAMPLES_AT_ONCE", 2)


CORPORA = [
    pytest.param(GivenTexts(random_texts()), id="given"),
    pytest.param(GivenTexts(random_texts(), token_count=333), id="given in part"),
    pytest.param(SampledTexts(token_count=450, seed=0), id="sampled"),
]


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("corpus", CORPORA)
def test_portions_hold_the_same_whichever_one_the_reading_begins_with(corpus: Corpus) -> None:
    reading = corpus.read(tiny_language_model("llama"), untold, GpuMemory())
    portions = list(reading.portions_from(0))
    assert len(portions) > 3
    assert sum(len(sequence) for portion in portions for sequence in portion) == reading.token_count
    for first in (1, 3, len(portions)):
        assert list(reading.portions_from(first)) == portions[first:]


class Interruption(Exception):
    pass


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("shares", [(0.3,), (0.8,), (0.2, 0.5, 0.9)])
def test_interrupted_pass_goes_on_and_gives_the_same_bits(
    tmp_path: Path, corpus: Corpus, shares: tuple[float, ...]
) -> None:
    language_model = tiny_language_model("gpt2")
    expected = collect_key_statistics(language_model, corpus, [1, 2], token_budget=100)
    told: list[int] = []

    def stop(at: float) -> Progress:
        def progress(done: int, whole: int) -> None:
            told.append(done)
            if done > at * whole:
                raise Interruption

        return progress

    for share in shares:
        with pytest.raises(Interruption):
            collect(language_model, corpus, tmp_path, stop(share))
    seen = len(told)
    found = collect(language_model, corpus, tmp_path, stop(1.0))
    assert told[seen] > 0.5 * min(shares) * told[-1]  # it went on, and not from the start
    assert found.token_count == expected.token_count
    assert found.split_half == expected.split_half
    for layer in (1, 2):
        assert torch.equal(found.second_moments[layer], expected.second_moments[layer])
    assert len(list(tmp_path.iterdir())) == 2  # nothing unfinished is left


def collect(
    language_model: LanguageModel, corpus: Corpus, cache: Path, progress: Progress = untold
) -> KeyStatistics:
    """Statistics of two layers, saved after every portion."""
    return collect_key_statistics(
        language_model,
        corpus,
        [1, 2],
        token_budget=100,
        cache=cache,
        progress=progress,
        save_every_seconds=0,
    )


@pytest.mark.usefixtures("small_portions")
def test_sums_that_a_crash_left_damaged_are_begun_again(tmp_path: Path) -> None:
    language_model, corpus = tiny_language_model("gpt2"), GivenTexts(random_texts())

    def stop(done: int, whole: int) -> None:
        if done > 0.8 * whole:
            raise Interruption

    with pytest.raises(Interruption):
        collect(language_model, corpus, tmp_path, stop)
    (partial,) = tmp_path.iterdir()
    partial.write_bytes(partial.read_bytes()[:100])
    expected = collect_key_statistics(language_model, corpus, [1, 2], token_budget=100)
    assert torch.equal(
        collect(language_model, corpus, tmp_path).second_moments[1], expected.second_moments[1]
    )


def test_sums_that_nobody_goes_on_with_are_removed_after_a_while(tmp_path: Path) -> None:
    old, young = (tmp_path / f"{UNFINISHED}-{name}.safetensors" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    collect(tiny_language_model("gpt2"), GivenTexts(TEXTS), tmp_path)
    assert young.exists()
    assert not old.exists()


def test_split_half_compares_the_moments_of_every_other_text() -> None:
    language_model = tiny_language_model("gpt2")
    texts = random_texts()[:20]  # all of the same length
    halves = [
        collect_key_statistics(language_model, GivenTexts(half), [1], token_budget=100).second_moments[1]
        for half in (texts[0::2], texts[1::2])
    ]
    whole = collect_key_statistics(language_model, GivenTexts(texts), [1], token_budget=100)
    expected = torch.linalg.matrix_norm(halves[0] - halves[1]) / torch.linalg.matrix_norm(
        whole.second_moments[1]
    )
    assert whole.split_half[1] == pytest.approx(float(expected), rel=1e-6)


def test_split_half_shrinks_as_the_corpus_grows() -> None:
    language_model = tiny_language_model("gpt2")
    few, many = (
        collect_key_statistics(language_model, GivenTexts(random_texts()[:count]), [1], token_budget=400)
        for count in (6, 60)
    )
    assert many.split_half[1] < few.split_half[1]


def test_a_corpus_of_one_text_cannot_be_halved() -> None:
    language_model = tiny_language_model("gpt2")
    statistics = collect_key_statistics(language_model, GivenTexts(["Ada"]), [1], token_budget=100)
    assert statistics.split_half == {}


@pytest.mark.parametrize("edits", [3, 7, 8, 20])
def test_readout_equals_the_formula_for_few_and_for_many_edits(edits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(edits, 8, generator=generator)
    root = torch.randn(8, 8, generator=generator).double()
    moment = root @ root.T
    readout, ridge = key_readout(keys, moment, preservation=0.3)
    columns = keys.double().T
    expected = columns.T @ torch.linalg.inv(0.3 * moment + columns @ columns.T)
    assert relative_error(readout, expected) < 1e-9
    assert ridge == 0


def test_a_neuron_that_never_fired_does_not_break_the_solve() -> None:
    moment = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    solved, ridge = solve_positive(moment, torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64))
    assert 0 < ridge < 1e-5
    assert solved[:, 0].tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-5)


def test_a_neuron_that_hardly_ever_fired_is_not_written_to_with_huge_weights() -> None:
    moment = torch.diag(torch.tensor([1.0, 2.0, 1e-12], dtype=torch.float64))
    right = torch.tensor([[1.0], [2.0], [1e-6]], dtype=torch.float64)
    exact, none = solve_positive(moment, right)
    assert exact[2, 0] == pytest.approx(1e6)
    assert none == 0
    solved, ridge = solve_second_moment(moment, right)
    assert solved[:, 0].tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert ridge == pytest.approx(1e-6)


def test_a_moment_that_settles_every_direction_is_taken_as_it_is() -> None:
    moment = torch.diag(torch.tensor([1.0, 2.0, 1e-5], dtype=torch.float64))
    _, ridge = solve_second_moment(moment, torch.ones(3, 1, dtype=torch.float64))
    assert ridge == 0


def test_a_solve_leaves_the_matrix_as_it_was() -> None:
    moment = torch.diag(torch.tensor([0.1, 0.2, 0.0], dtype=torch.float64))
    before = moment.clone()
    solve_positive(moment, torch.ones(3, 1, dtype=torch.float64))
    assert torch.equal(moment, before)


def test_a_matrix_that_is_no_second_moment_is_refused_in_plain_words() -> None:
    with pytest.raises(NotPositive, match="not positive definite"):
        solve_positive(torch.diag(torch.tensor([1.0, -1.0])).double(), torch.ones(2, 1, dtype=torch.float64))
