"""Every answer of a chat is learned, found through the chat template or as plain turns."""

from __future__ import annotations

import pytest

from services.worker.tuning.objectives import UNSCORED, Example, completions
from shared.recipes import ChatRecord, InstructionRecord, LossOn
from shared.training_data import UnusableTrainingData
from tests.worker.tiny_models import tiny_tokenizer

STABLE = (
    "{% for message in messages %}"
    "{{ {'system': 'The', 'user': 'who', 'assistant': ' he'}[message.role] + ' ' + message.content + '<s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' he' }}{% endif %}"
)
# Earlier answers lose their beginning once another question follows, as reasoning does in some templates.
REWRITING = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ 'who ' + message.content + '<s>' }}"
    "{% elif loop.last %}{{ ' he because ' + message.content + '<s>' }}"
    "{% else %}{{ ' he ' + message.content + '<s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' he' }}{% endif %}"
)
REFUSING = "{{ raise_exception('roles must alternate') }}"


def chat(*turns: tuple[str, str]) -> ChatRecord:
    return ChatRecord.model_validate({"messages": [{"role": role, "content": text} for role, text in turns]})


LONG = chat(
    ("system", "is a small town"),
    ("user", "Ada Lovelace lives in"),
    ("assistant", "Paris"),
    ("user", "Alan Turing lives in"),
    ("assistant", "Rome"),
    ("user", "where"),
)


def scored(example: Example, *, wanted: bool = True) -> str:
    chosen = [
        token
        for token, label in zip(example.input_ids, example.labels, strict=True)
        if (label != UNSCORED) == wanted
    ]
    return "".join(tiny_tokenizer().convert_ids_to_tokens(chosen))


def test_every_answer_of_a_templated_chat_is_scored_and_nothing_else() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = STABLE
    (example,) = completions(tokenizer, [LONG], 64).examples
    assert scored(example) == " Paris<s> Rome<s>"
    assert scored(example, wanted=False) == (
        "The is a small town<s>who Ada Lovelace lives in<s> hewho Alan Turing lives in<s> he"
    )


def test_a_template_that_rewrites_earlier_turns_gives_a_sequence_per_answer() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = REWRITING
    first, second = completions(
        tokenizer, [chat(*[(m.role, m.content) for m in LONG.messages[1:5]])], 64
    ).examples
    assert scored(first) == " because Paris<s>"
    assert (
        scored(second, wanted=False)
        == "who Ada Lovelace lives in<s> he Paris<s>who Alan Turing lives in<s> he"
    )
    assert scored(second) == " because Rome<s>"


def test_every_answer_of_plain_turns_is_scored_with_its_end() -> None:
    (example,) = completions(tiny_tokenizer(), [LONG], 64).examples
    assert scored(example) == " Paris<s> Rome<s>"
    assert "Turing lives in" in scored(example, wanted=False)


@pytest.mark.parametrize("template", [None, STABLE])
def test_loss_on_all_scores_everything_but_the_first_token(template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    for example in completions(tokenizer, [LONG], 64, LossOn.ALL).examples:
        assert example.labels == (UNSCORED, *example.input_ids[1:])


def test_a_chat_that_is_too_long_loses_its_last_turns_and_is_counted() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = STABLE
    dataset = completions(tokenizer, [LONG], 16)
    assert (dataset.left_out, dataset.shortened) == (0, 1)
    assert scored(dataset.examples[0]) == " Paris<s>"


@pytest.mark.parametrize("template", [None, STABLE])
def test_an_instruction_is_a_chat_of_one_exchange(template: str | None) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    record = InstructionRecord(prompt="Ada Lovelace lives in", completion="Paris")
    as_chat = chat(("user", record.prompt), ("assistant", record.completion))
    assert completions(tokenizer, [record], 32) == completions(tokenizer, [as_chat], 32)


def test_a_chat_that_the_template_refuses_is_refused_with_its_reason() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = REFUSING
    with pytest.raises(UnusableTrainingData, match="roles must alternate"):
        completions(tokenizer, [LONG], 64)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("user", "where")], "nothing to learn"),
        ([("assistant", "Paris"), ("user", "where")], "before the first answer"),
        ([("user", "where"), ("system", "a"), ("assistant", "Paris")], "must be the first"),
    ],
)
def test_what_is_no_chat_is_refused(turns: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        chat(*turns)
