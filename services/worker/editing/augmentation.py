"""Making an edit under several phrasings at once."""

import re
from collections.abc import Sequence

from shared.edits import SLOT, Edit


class TooFewParaphrases(Exception):
    """An edit with fewer paraphrases than the augmentation asks for."""

    def __init__(self, edit_index: int, wanted: int, found: int) -> None:
        super().__init__(f"edits.{edit_index}: {wanted} paraphrases are asked for, it has {found}")
        self.edit_index = edit_index
        self.wanted = wanted
        self.found = found


def augment_with_paraphrases(edits: Sequence[Edit], count: int) -> list[Edit]:
    """The edits, and after them, edit by edit, their first `count` paraphrases as edits with the same target.

    With n edits, number i of the result stems from edit i when i < n, else from edit (i − n) // count.
    Raises TooFewParaphrases.
    """
    for index, edit in enumerate(edits):
        if len(edit.paraphrases) < count:
            raise TooFewParaphrases(index, count, len(edit.paraphrases))
    rephrased = [
        Edit(
            prompt=with_slot(paraphrase, edit.subject),
            subject=edit.subject,
            target_new=edit.target_new,
            target_true=edit.target_true,
            relation=edit.relation,
        )
        for edit in edits
        for paraphrase in edit.paraphrases[:count]
    ]
    return [*edits, *rephrased]


def with_slot(paraphrase: str, subject: str) -> str:
    """Put `{}` for the subject where it stands last, as whole words if it does anywhere.

    The last place is the one that the answer follows on; a paraphrase may lead in with another sentence
    about the same subject.
    """
    whole = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", paraphrase))
    start = whole[-1].start() if whole else paraphrase.rindex(subject)
    return paraphrase[:start] + SLOT + paraphrase[start + len(subject) :]
