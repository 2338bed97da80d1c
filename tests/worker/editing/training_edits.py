"""Edits for MEND's hypernetwork to learn from: about other subjects than those of `EDITS`."""

import itertools

from shared.edits import Edit
from tests.worker.tiny_models import PLACES

OWNERS = ("old", "new", "small", "quiet")
THINGS = ("river", "market", "house", "letter", "road", "city")
PROMPTS = ("{} lives in", "Home town of {}", "The city {} was born in", "the old market of {}")


def training_edits() -> list[Edit]:
    """One edit per subject, with one paraphrase each; targets of one token and of two."""
    edits = []
    for index, (owner, thing) in enumerate(itertools.product(OWNERS, THINGS)):
        prompt, other = PROMPTS[index % 4], PROMPTS[(index + 1) % 4]
        subject = f"{owner} {thing}"
        edits.append(
            Edit(
                prompt=prompt,
                subject=subject,
                target_new=PLACES[index % 6],
                target_true=PLACES[(index + 1 + index // 6) % 6],
                paraphrases=(other.replace("{}", subject),),
            )
        )
    return edits
