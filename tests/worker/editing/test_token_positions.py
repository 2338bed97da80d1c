import pytest

from services.worker.editing.contexts import BARE_PROMPT
from services.worker.editing.target_requests import target_requests
from services.worker.editing.token_positions import SubjectNotFound, locate_subject, prompt_sequences
from tests.worker.editing.cases import CONTEXTS, EDITS, tiny_language_model
from tests.worker.tiny_models import tiny_tokenizer


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(
    ("template", "subject", "last_token"),
    [
        ("{} lives in", "Ada Lovelace", " Lovelace"),
        ("{} lives in", "Ada", "Ada"),
        ("Home town of {}", "Alan Turing", " Turing"),
        ("Ada walked and {} lives in", "Ada", " Ada"),
        ("the city of {} in the old market", "New York", " York"),
    ],
)
def test_position_is_that_of_the_subjects_last_token(
    template: str, subject: str, last_token: str, adds_bos: bool
) -> None:
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    sequence = locate_subject(tokenizer, template, subject, edit_index=0)
    assert tokenizer.convert_ids_to_tokens(sequence.ids[sequence.subject_position]) == last_token
    before = template.split("{}")[0] + subject
    assert sequence.subject_position == len(before.split()) - 1 + adds_bos


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("template", ["{} lives in", "Home town of {}", "the home of {}'s old house"])
def test_a_tokenizer_that_ends_texts_with_eos_gives_the_same_positions(template: str, adds_bos: bool) -> None:
    plain, with_eos = tiny_tokenizer(adds_bos=adds_bos), tiny_tokenizer(adds_bos=adds_bos, adds_eos=True)
    assert locate_subject(with_eos, template, "Ada", 0) == locate_subject(plain, template, "Ada", 0)


def test_a_subject_that_merges_with_what_follows_ends_in_the_merged_token() -> None:
    tokenizer = tiny_tokenizer(adds_bos=True)
    sequence = locate_subject(tokenizer, "the home of {}'s old house", "Ada", edit_index=0)
    assert sequence.subject_position == 4
    assert sequence.ids[4] == tokenizer.convert_tokens_to_ids("<unk>")


def test_a_subject_that_no_token_ends_in_is_refused_by_the_edits_index() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(SubjectNotFound, match=r"edits\.7"):
        locate_subject(tokenizer, "{}", "", edit_index=7)


def test_a_context_shifts_the_position_by_its_own_tokens() -> None:
    language_model = tiny_language_model("gpt2")
    bare, first, _ = prompt_sequences(language_model, EDITS, CONTEXTS.flat)[0]
    assert first.subject_position == bare.subject_position + len(
        ["The", "river", "and", "they", "walked", "."]
    )


def test_target_ids_follow_every_prompt_but_for_the_last() -> None:
    language_model = tiny_language_model("llama")
    request = target_requests(language_model, [EDITS[1]], BARE_PROMPT)[0]
    whole = language_model.tokenizer.encode("Home town of Alan Turing New York")
    essence = language_model.tokenizer.encode("Alan Turing is a")
    assert request.rows() == [tuple(whole[:-1]), tuple(essence)]
