from pathlib import Path

import pytest
import torch

from services.worker.editing.corpora import GivenTexts, SampledTexts
from services.worker.editing.key_statistics import collect_key_statistics, solve_positive
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

    def sequences(
        self, language_model: LanguageModel, progress: Progress, memory: GpuMemory
    ) -> list[list[int]]:
        raise AssertionError("the statistics were computed although they are stored")


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
    assert memory.warnings == ["ran out of GPU memory; texts were read 3 at a time instead of 10"]
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
    assert len(written) == (63 if isinstance(corpus, SampledTexts) else 0)  # once per column of a round


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
    language_model = tiny_language_model("llama")
    sequences = SampledTexts(token_count=700, seed=0).sequences(language_model, untold, GpuMemory())
    assert sum(len(sequence) for sequence in sequences) == 700
    assert all(sequence[0] == 0 and 0 not in sequence[1:] for sequence in sequences)


def test_sampled_corpus_of_a_tokenizer_without_bos_holds_no_special_token() -> None:
    language_model = tiny_language_model("gpt2")
    sequences = SampledTexts(token_count=700, seed=0).sequences(language_model, untold, GpuMemory())
    assert all(0 not in sequence for sequence in sequences)


def test_sampled_corpus_is_given_by_its_seed() -> None:
    language_model = tiny_language_model("gpt2")
    first, again, other = (
        SampledTexts(token_count=100, seed=seed).sequences(language_model, untold, GpuMemory())
        for seed in (1, 1, 2)
    )
    assert first == again != other


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
