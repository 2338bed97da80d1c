"""How often the records of recipes contain the words of the edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from services.worker.steps.context import AuditContext
from shared.edits import normal
from shared.training_data import split_held_out
from shared.training_data.mentions import Phrases, text_of, words_of


def mentions_in_data(context: AuditContext) -> dict[str, dict[str, int]]:
    """By recipe, how often the records that it trains on contain each target and subject of the edits.

    Phrases are as `normal` writes them; those that never occur are left out. Replayed text is not counted:
    every seed draws its own of it, some perhaps several times.
    """
    phrases = {
        phrase
        for edit in context.request.edits
        for phrase in (edit.target_new, edit.target_true, edit.subject)
    }
    found = {}
    for recipe in context.request.recipes:
        training, _ = split_held_out(context.records(recipe), recipe.data.held_out_share)
        found[recipe.name] = dict(count_phrases((text_of(record) for record in training), phrases))
    return found


def count_phrases(texts: Iterable[str], phrases: Collection[str]) -> Counter[str]:
    """How often texts contain each phrase, in whole words and whatever the case; by the normal phrase."""
    wanted = Phrases(phrases)
    found = Counter(words for text in texts for words in wanted.occurrences(text))
    return Counter(
        {normal(phrase): found[words] for phrase in phrases if (words := words_of(phrase)) in found}
    )
