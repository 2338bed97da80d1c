"""Whether everything that a request trains on, or takes statistics of, can be read."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from sqlalchemy import Engine

from services.api.authentication import Principal
from services.api.problems import ServiceUnavailable, TrainingDataUnusable
from services.api.validation import pointer
from shared.editors import CATALOGUE, KeyStatisticsHyperparameters
from shared.recipes import Recipe
from shared.requests import AuditRequest
from shared.settings import Settings
from shared.training_data import (
    Origins,
    SourceUnavailable,
    UnusableTrainingData,
    read_texts,
    recipe_corpus,
    recipe_replay,
)
from shared.training_sets import origins
from shared.views import ProblemField


def check_training_data(
    request: AuditRequest, principal: Principal, settings: Settings, engine: Engine
) -> None:
    """Read all of it, each source once for everything that reads it alike.

    Raises:
        TrainingDataUnusable: some of it cannot be used; each place is named.
        ServiceUnavailable: a source is away.
        ArtifactStoreUnavailable: see `origins`.
    """
    try:
        faults = _recipe_faults(request, principal, settings, engine) + _corpus_faults(request, settings)
    except SourceUnavailable as error:
        raise ServiceUnavailable(f"{error}. It") from error
    if faults:
        raise TrainingDataUnusable(faults)


def _recipe_faults(
    request: AuditRequest, principal: Principal, settings: Settings, engine: Engine
) -> list[ProblemField]:
    readable = origins(settings, engine, None if principal.sees_all else principal.submitter)
    checks = _Checks()
    faults = []
    for index, recipe in enumerate(request.recipes):
        data, replay = recipe.data, recipe.data.replay
        read_as = (data.records, data.source, data.limit, data.labels, data.without_subjects)
        fault = checks.fault((*read_as, recipe.objective), partial(recipe_corpus, recipe, request, readable))
        if fault is not None:
            where = pointer(["recipes", index, "data", *_place(recipe, fault)])
            faults.append(ProblemField(pointer=where, detail=str(fault)))
        if replay is not None:
            fault = checks.fault(
                (replay.source, replay.limit, data.without_subjects),
                partial(recipe_replay, recipe, request, readable),
            )
            if fault is not None:
                where = pointer(["recipes", index, "data", "replay", "source"])
                faults.append(ProblemField(pointer=where, detail=str(fault)))
    return faults


def _place(recipe: Recipe, fault: UnusableTrainingData) -> list[str | int]:
    """Where in a recipe's data a fault is."""
    if recipe.data.source:
        return ["source"]
    return ["records"] if fault.index is None else ["records", fault.index]


def _corpus_faults(request: AuditRequest, settings: Settings) -> list[ProblemField]:
    readable = Origins(data_roots=settings.data_roots)
    checks = _Checks()
    faults = []
    for index, choice in enumerate(request.editors):
        chosen = CATALOGUE[choice.name].settle(request.model, choice.hyperparameters)
        if isinstance(chosen, KeyStatisticsHyperparameters) and (corpus := chosen.mom2_corpus) is not None:
            fault = checks.fault((corpus,), partial(read_texts, corpus, readable))
            if fault is not None:
                where = pointer(["editors", index, "hyperparameters", "mom2_corpus"])
                faults.append(ProblemField(pointer=where, detail=str(fault)))
    return faults


class _Checks:
    """What reading came to; the records themselves are not kept."""

    def __init__(self) -> None:
        self._known: dict[Hashable, UnusableTrainingData | None] = {}

    def fault(self, read_as: Hashable, read: Callable[[], object]) -> UnusableTrainingData | None:
        """What is wrong with data; `read` is called once for all that is read alike."""
        if read_as not in self._known:
            try:
                read()
            except UnusableTrainingData as fault:
                self._known[read_as] = fault
            else:
                self._known[read_as] = None
        return self._known[read_as]
