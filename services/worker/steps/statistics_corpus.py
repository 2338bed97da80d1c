"""The corpus that an editor's key statistics are taken over, where the audit names one."""

from __future__ import annotations

from services.worker.steps.failures import StepFailed
from shared.editors import Hyperparameters, KeyStatisticsHyperparameters
from shared.recipes import TextRecord
from shared.settings import Settings
from shared.states import Cause
from shared.training_data import Origins, content_hash, read_texts


def statistics_corpus(hyperparameters: Hyperparameters, settings: Settings) -> list[TextRecord] | None:
    """Its texts; None where the editor takes no key statistics, or those of the model's own texts.

    Raises:
        UnusableTrainingData: nothing usable is there (any more).
    """
    if not isinstance(hyperparameters, KeyStatisticsHyperparameters) or hyperparameters.mom2_corpus is None:
        return None
    return read_texts(hyperparameters.mom2_corpus, Origins(data_roots=settings.data_roots))


def planned_corpus(
    hyperparameters: Hyperparameters, settings: Settings, planned_hash: str | None
) -> list[str] | None:
    """The texts, which must be those that the step's key was made from."""
    records = statistics_corpus(hyperparameters, settings)
    if records is None:
        return None
    if content_hash(records) != planned_hash:
        raise StepFailed(Cause.USER, "mom2_corpus: the texts changed since the audit began")
    return [record.text for record in records]
