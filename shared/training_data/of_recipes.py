"""What one recipe of an audit trains on."""

from __future__ import annotations

from collections.abc import Callable

from shared.recipes import Objective, Recipe, TextRecord, TrainingData, TrainingRecord
from shared.requests import AuditRequest
from shared.training_data.mentions import Phrases, text_of
from shared.training_data.origins import Origins
from shared.training_data.reading import Corpus, read_corpus


def recipe_corpus(recipe: Recipe, request: AuditRequest, origins: Origins) -> Corpus:
    """The recipe's records, without those that name a subject where the recipe has it so.

    Raises UnusableTrainingData, see `read_corpus`.
    """
    return read_corpus(recipe.data, recipe.objective, origins, leaving_out(recipe, request))


def recipe_replay(recipe: Recipe, request: AuditRequest, origins: Origins) -> list[TextRecord]:
    """The plain text that the recipe mixes into training, without the like; none where it asks for none."""
    replay = recipe.data.replay
    if replay is None:
        return []
    data = TrainingData(source=replay.source, limit=replay.limit)
    corpus = read_corpus(data, Objective.CAUSAL_LM, origins, leaving_out(recipe, request))
    return [record for record in corpus.records if isinstance(record, TextRecord)]


def leaving_out(recipe: Recipe, request: AuditRequest) -> Callable[[TrainingRecord], bool] | None:
    """Tells the records that name the subject of an edit, of a control fact or of an unedited record."""
    if not recipe.data.without_subjects:
        return None
    subjects = [edit.subject for edit in (*request.edits, *request.controls.unedited)]
    phrases = Phrases([*subjects, *(fact.subject or "" for fact in request.controls.facts)])
    return lambda record: bool(phrases.within(text_of(record)))
