"""Storing what took hours to compute, and getting back what another step stored.

A store that is away for a while must not cost what is to be stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.worker.steps.context import AuditContext
from services.worker.steps.failures import InputDamaged
from shared.artifacts import Artifact, ArtifactCorrupt, ArtifactStoreUnavailable
from shared.tables import Step

ALL_BUT_STORED = 0.99  # of the step's progress


def store_patiently(context: AuditContext, step: Step, put: Callable[[], Artifact]) -> Artifact:
    """What `put` gives, again and again while the store is away; the audit's time to run bounds it.

    Raises:
        AskedToLeave: the worker is stopped meanwhile.
    """
    while True:
        try:
            return put()
        except ArtifactStoreUnavailable:
            context.report_progress(step, ALL_BUT_STORED, "waiting for the artifact store")
            time.sleep(context.settings.retry_wait_seconds)


@contextmanager
def fetched(context: AuditContext, step_id: str) -> Iterator[Path]:
    """A copy of what a step stored, checked against its hash, while the context lasts.

    Raises:
        InputDamaged: it is missing, truncated or altered.
    """
    step = context.step(step_id)
    if step.artifact is None or step.artifact_sha256 is None:
        raise InputDamaged(step_id, "it is being computed again")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(step.artifact).name
        try:
            context.store.get_file(Artifact(step.artifact, step.artifact_sha256), path)
        except ArtifactCorrupt as damage:
            raise InputDamaged(step_id, str(damage)) from damage
        yield path
