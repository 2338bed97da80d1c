"""Storing what took hours to compute: a store that is away for a while must not cost it."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.worker.steps.context import AuditContext
from shared.artifacts import Artifact, ArtifactStoreUnavailable
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
