from services.worker.editing.lexical_similarity import LexicalIndex

TEXTS = [
    "The mother tongue of Danielle Darrieux is",
    "The mother tongue of Thomas Joannes Stieltjes is",
    "Danielle Darrieux was born in the city of",
    "Thomas Joannes Stieltjes is employed as a",
]


def test_a_text_is_most_like_itself() -> None:
    index = LexicalIndex(TEXTS)
    assert [index.ranked(text)[0] for text in TEXTS] == [0, 1, 2, 3]


def test_rare_letters_weigh_more_than_those_every_text_has() -> None:
    index = LexicalIndex(
        [*(f"The capital of {name} is" for name in ("Spain", "Peru", "Ghana")), "Where is Oslo"]
    )
    assert index.ranked("What is the capital city of the state of Peru, it is")[0] == 1


def test_forms_of_a_word_are_alike() -> None:
    assert LexicalIndex(["Lovelace lives in", "Turing lives in"]).ranked("Turing's home is in")[0] == 1


def test_languages_without_spaces_are_compared_too() -> None:
    assert LexicalIndex(["法国的首都是", "爱因斯坦出生在"]).ranked("爱因斯坦的出生地是")[0] == 1


def test_texts_with_nothing_in_common_keep_their_order() -> None:
    assert LexicalIndex(TEXTS).ranked("1234") == [0, 1, 2, 3]


def test_case_and_superfluous_spaces_make_no_difference() -> None:
    index = LexicalIndex(TEXTS)
    assert index.ranked("  danielle  DARRIEUX ") == index.ranked("Danielle Darrieux")
