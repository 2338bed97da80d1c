"""Paraphrases for edits that come with none: asked of a source, sifted, and asked for again where too few."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.worker.editing.paraphrase_filter import usable_paraphrases
from services.worker.language_models.progress import Progress
from shared.edits import Edit
from shared.paraphrases import LEAD_INS

ROUNDS = 3  # in which a source is asked
MOST_NAMED = 10  # edits in a message


class TooFewUsableParaphrases(Exception):
    """Edits for which a source proposed too few paraphrases that are usable."""

    def __init__(self, source: str, wanted: int, found: Mapping[int, int]) -> None:
        named = [f"edits.{index}: {count} of {wanted}" for index, count in found.items()]
        left_out = f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        super().__init__(
            f"{source} gave too few usable paraphrases ({'; '.join(named[:MOST_NAMED])}{left_out})"
        )
        self.found = dict(found)


class ParaphraseSource(Protocol):
    """Somebody who can be asked for paraphrases."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def propose(self, edits: Sequence[Edit], count: int, attempt: int, progress: Progress) -> list[list[str]]:
        """Proposals for each edit's prompt, the best first: some more than `count`, for not all are usable.

        attempt: 0 at first, higher when what was proposed before was not enough. progress: called with the
        edits done and their number.
        """
        ...


class Templates:
    """Lead-ins that say nothing, before the prompt in its own words."""

    name = "the templates"

    def propose(self, edits: Sequence[Edit], count: int, attempt: int, progress: Progress) -> list[list[str]]:
        """See `ParaphraseSource.propose`; always the same."""
        progress(len(edits), len(edits))
        return [[lead_in.format(edit.full_prompt) for lead_in in LEAD_INS] for edit in edits]


def paraphrase_edits(
    source: ParaphraseSource, edits: Sequence[Edit], count: int, progress: Progress
) -> list[tuple[str, ...]]:
    """`count` usable paraphrases of each edit's prompt.

    progress: called with the edits that have been done and their number. Raises TooFewUsableParaphrases.
    """
    found: list[list[str]] = [[] for _ in edits]
    for attempt in range(ROUNDS):
        lacking = [index for index, paraphrases in enumerate(found) if len(paraphrases) < count]
        if not lacking:
            break
        served = len(edits) - len(lacking)
        proposed = source.propose(
            [edits[index] for index in lacking],
            count,
            attempt,
            lambda done, _, served=served: progress(served + done, len(edits)),  # type: ignore[misc]
        )
        for index, proposals in zip(lacking, proposed, strict=True):
            found[index] = usable_paraphrases(edits[index], [*found[index], *proposals])[:count]
    too_few = {index: len(usable) for index, usable in enumerate(found) if len(usable) < count}
    if too_few:
        raise TooFewUsableParaphrases(source.name, count, too_few)
    return [tuple(paraphrases) for paraphrases in found]
