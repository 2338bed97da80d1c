import pytest

from services.worker.editing.contexts import BARE_PROMPT, Contexts, generate_contexts, tidy
from tests.worker.editing.cases import tiny_language_model


def test_generated_contexts_start_with_the_bare_prompt_alone_in_its_group() -> None:
    contexts = generate_contexts(tiny_language_model("llama"), count=7, length=6, seed=0)
    assert contexts.flat[0] == "{}"
    assert [len(group) for group in contexts.groups] == [1, 7]


def test_generated_contexts_begin_with_the_seed_words_in_turn() -> None:
    texts = generate_contexts(tiny_language_model("gpt2"), count=6, length=6, seed=0).groups[1]
    assert [text.split()[0] for text in texts[:3] + texts[5:]] == ["The", "Therefore", "Because", "The"]


def test_generated_contexts_are_given_by_their_seed() -> None:
    language_model = tiny_language_model("gpt2")
    first, again, other = (
        generate_contexts(language_model, count=5, length=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_progress_counts_the_tokens_of_all_texts() -> None:
    told: list[tuple[int, int]] = []
    generate_contexts(
        tiny_language_model("gpt2"),
        count=3,
        length=5,
        seed=0,
        progress=lambda done, whole: told.append((done, whole)),
    )
    assert told == [(3, 12), (6, 12), (9, 12), (12, 12)]


def test_no_generated_contexts_leave_the_bare_prompt() -> None:
    assert generate_contexts(tiny_language_model("gpt2"), count=0, length=8, seed=0) == BARE_PROMPT


def test_bare_prompt_weighs_as_much_as_the_other_group() -> None:
    assert Contexts((("{}",), ("a {}", "b {}", "c {}", "d {}"))).weights == (0.5, 0.125, 0.125, 0.125, 0.125)


@pytest.mark.parametrize("groups", [(), (("a {}",),), (("{}",), ()), (("{}",), ("{} and {}",))])
def test_contexts_without_bare_prompt_or_slot_are_refused(groups: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(ValueError, match="context"):
        Contexts(groups)


def test_generated_text_loses_line_breaks_and_braces() -> None:
    assert tidy(" The {old}\n\nriver\ufffd.") == "The old river"
