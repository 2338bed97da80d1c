"""The child that owns the model: takes the ready steps of one audit, one after another.

Started by the supervisor, which writes the lease to standard input and keeps it open.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from services.worker.steps.context import AuditContext
from services.worker.steps.order import run_ready_steps
from shared.artifacts import ArtifactStore
from shared.database import create_database_engine
from shared.leases import Lease, LeaseLost
from shared.settings import get_settings

log = logging.getLogger(__name__)

LEASE_LOST_STATUS = 75  # EX_TEMPFAIL: somebody else has the audit now


def main() -> int:
    """Run one audit's ready steps; the exit status is 0 when the audit has ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    lease = Lease(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_die_with_the_supervisor, daemon=True).start()
    settings = get_settings()
    engine = create_database_engine(settings.resolved_database_url)
    context = AuditContext(engine, settings, ArtifactStore(settings.resolved_artifacts_url), lease)
    try:
        run_ready_steps(context)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return LEASE_LOST_STATUS
    return 0


def _die_with_the_supervisor() -> None:
    """Without a supervisor nobody renews the lease, so going on would be work for nothing."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
