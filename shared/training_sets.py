"""Uploaded training sets, and everything else that training data may come from on this server."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlmodel import col

from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStore
from shared.database import reading
from shared.settings import Settings
from shared.tables import TrainingSet
from shared.training_data import Origins, UnusableTrainingData


def origins(settings: Settings, engine: Engine, submitter: str | None = None) -> Origins:
    """What training data may be read from; of uploads only the submitter's, or all where none is named.

    Reading an upload raises ArtifactStoreUnavailable when the store fails.
    """

    def uploaded(identifier: str) -> tuple[str, bytes]:
        query = select(TrainingSet).where(col(TrainingSet.id) == identifier)
        if submitter is not None:
            query = query.where(col(TrainingSet.submitter) == submitter)
        with reading(engine) as session:
            found = session.execute(query).scalar_one_or_none()
        source = f"training_set:{identifier}"
        if found is None:
            raise UnusableTrainingData("there is no such training set", source)
        try:
            content = ArtifactStore(settings.resolved_artifacts_url).get(artifact_of(found))
        except ArtifactCorrupt as error:
            raise UnusableTrainingData("its content is missing or damaged", source) from error
        return f"upload{found.suffix}", content

    return Origins(settings.data_roots, settings.data_url_prefixes, uploaded)


def artifact_of(training_set: TrainingSet) -> Artifact:
    """Where the set's content is."""
    return Artifact.of_content(training_set.content_hash, training_set.suffix)
