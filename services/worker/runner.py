"""The child that owns the model: for each lease it is handed, it takes the ready steps of one audit.

Started by the supervisor, which writes leases and orders to standard input and keeps it open. The child
answers on standard output when it has left an audit; all else that is printed goes to standard error.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading

from services.worker.exiting import run_and_exit
from services.worker.orders import LEASE_LOST_STATUS, LEFT, Orders, read_line
from services.worker.steps.context import AuditContext
from services.worker.steps.model_source import ModelKeeper
from services.worker.steps.order import work_on_audit
from shared.artifacts import ArtifactStore
from shared.database import create_database_engine
from shared.leases import Lease, LeaseLost
from shared.settings import get_settings

log = logging.getLogger(__name__)


def main() -> int:
    """Work on one audit after another until the lease of one is lost or a step has failed unforeseen."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    orders, leases = Orders(), queue.SimpleQueue[Lease]()
    threading.Thread(target=_listen, args=(orders, leases), daemon=True).start()
    settings = get_settings()
    engine = create_database_engine(settings.resolved_database_url)
    store, models = ArtifactStore(settings.resolved_artifacts_url), ModelKeeper()
    while True:
        context = AuditContext(engine, settings, store, leases.get(), orders, models)
        try:
            work_on_audit(context)
        except LeaseLost as lost:
            log.warning("%s", lost)
            return LEASE_LOST_STATUS
        if context.failed_unforeseen:
            return 0  # whatever it was, the next audit begins in a process that has not seen it
        os.write(answers, LEFT)


def _listen(orders: Orders, leases: queue.SimpleQueue[Lease]) -> None:
    """Without a supervisor nobody renews the lease, so going on would be work for nothing."""
    for line in sys.stdin.buffer:
        message = read_line(line)
        if isinstance(message, Lease):
            leases.put(message)
        else:
            orders.take(message)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    run_and_exit(main)
