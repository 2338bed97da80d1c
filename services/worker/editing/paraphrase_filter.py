"""Which of the paraphrases that somebody proposes an edit can be made under."""

import re
from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from shared.edits import CompletePrompt, Edit, normal

MORE_WORDS = 20  # than the prompt a paraphrase may have, which leaves room for a lead-in
LEAST_WORDS = 2  # beside the subject
ENDS = ".!;…"  # of a sentence that is complete, so that no answer can follow
STEM_CHARACTERS = 4  # of an answer whose derivations give it away; shorter ones begin too many other words
HYPHENS = re.compile(r"[-\u2010-\u2015\u2212]")
# Scripts without spaces between words, or (Hangul) with particles joined to them, as character ranges.
UNPARTED = (
    r"\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf"  # Thai, Lao, Tibetan, Burmese, Khmer, Tai
    r"\u3005-\u3007\u3040-\u312f\u31a0-\u31ff"  # kana, Bopomofo
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    r"\ua000-\ua4cf\uac00-\ud7a3"  # Yi, Hangul
)

COMPLETE_PROMPT: TypeAdapter[str] = TypeAdapter(CompletePrompt)


def usable_paraphrases(edit: Edit, proposed: Iterable[str]) -> list[str]:
    """The proposals that are paraphrases of the edit's prompt, each once, in their order.

    One is if it is one line of about the prompt's length that names the subject, is unfinished, gives away
    neither of the answers, and is neither the prompt nor one of the paraphrases that the edit has, for these
    are held out to ask the edited model.
    """
    taken = {folded(edit.full_prompt), *map(folded, edit.paraphrases)}
    usable = []
    for text in proposed:
        if (paraphrase := complete_prompt(text)) is None:
            continue
        if folded(paraphrase) not in taken and is_like_the_prompt(paraphrase, edit):
            taken.add(folded(paraphrase))
            usable.append(paraphrase)
    return usable


def complete_prompt(text: str) -> str | None:
    """The text as a prompt may be, without superfluous spaces; None when it cannot be one."""
    if "\n" in text.strip():
        return None
    try:
        return " ".join(COMPLETE_PROMPT.validate_python(text).split())
    except ValidationError:
        return None


def is_like_the_prompt(paraphrase: str, edit: Edit) -> bool:
    """Whether it names the subject, is unfinished, of a sane length, and gives no answer away."""
    if edit.subject not in paraphrase or paraphrase.endswith(tuple(ENDS)):
        return False
    beside = paraphrase.replace(edit.subject, " ")
    if not LEAST_WORDS <= len(beside.split()) <= len(edit.full_prompt.split()) + MORE_WORDS:
        return False
    in_prompt = edit.full_prompt.replace(edit.subject, " ")
    return not any(
        mentions(beside, answer) and not mentions(in_prompt, answer)
        for answer in (edit.target_new, edit.target_true)
    )


def mentions(text: str, answer: str) -> bool:
    """Whether the answer stands in the text as whole words or begins one, as in "Parisian".

    Case, width, spaces and hyphens make no difference. Where a character beside the answer, or the answer's
    own there, is of a script that does not part words, nothing tells where a word begins or ends.
    """
    sought = in_words(answer)
    if not sought:  # the answer is but a dash
        return normal(answer) in normal(text)
    words = re.escape(sought)
    begins = rf"(?:(?<!\w)|(?<=[{UNPARTED}])|(?=[{UNPARTED}]))"
    ends = rf"(?:(?!\w)|(?<=[{UNPARTED}])|(?=[{UNPARTED}]))" if len(sought) < STEM_CHARACTERS else ""
    return re.search(begins + words + ends, in_words(text)) is not None


def in_words(text: str) -> str:
    """The text without what makes no difference to its words."""
    return normal(HYPHENS.sub(" ", normal(text)))


def folded(text: str) -> str:
    """What makes two paraphrases the same: their words, and not the marks at either end."""
    return normal(text).strip(" .,:;!?…\"'“”‘’")
