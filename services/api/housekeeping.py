"""What the gateway tidies up, in a thread of its own: a store that is slow must not hold up the relay."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from services.api.rounds import Rounds
from shared.artifacts import ArtifactStore, ArtifactStoreUnavailable
from shared.retention import forget_old_checkpoints
from shared.settings import Settings

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 600.0


def housekeeping(engine: Engine, store: ArtifactStore, settings: Settings) -> Rounds:
    """The thread, not yet started."""
    return Rounds("housekeeping", lambda: tidy(engine, store, settings), HOUSEKEEPING_SECONDS)


def tidy(engine: Engine, store: ArtifactStore, settings: Settings) -> None:
    """Forget old checkpoints; nothing that goes wrong ends more than this round."""
    try:
        while count := forget_old_checkpoints(engine, store, settings.checkpoint_retention_days):
            log.info("forgot %d checkpoints of audits that ended long ago", count)
    except ArtifactStoreUnavailable as error:
        log.warning("old checkpoints stay for now: %s", error)
    except Exception:
        log.exception("housekeeping goes on after an error")
