"""Celery carries wake-ups only; which work is done, and by whom, is decided in the database."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from celery.signals import worker_shutting_down

from services.worker.app import celery
from services.worker.draining import is_draining
from services.worker.health import at_work
from services.worker.supervisor import drain_queue
from shared.broker import WAKE_UP_TASK
from shared.database import create_database_engine, transaction
from shared.outbox import send_again
from shared.settings import get_settings

shutting_down = threading.Event()


@worker_shutting_down.connect
def hand_over(**_: Any) -> None:
    """Have the audit at hand given back to the queue, so that a restart loses no time to its lease."""
    shutting_down.set()


@celery.task(name=WAKE_UP_TASK)
def wake_up(audit_id: str) -> None:
    """Work on what waits until nothing can be taken."""
    settings = get_settings()
    engine = create_database_engine(settings.resolved_database_url)
    try:
        if is_draining(settings):  # the hint is for somebody else
            with transaction(engine) as session:
                send_again(session, audit_id)
            return
        with at_work(settings):
            drain_queue(engine, settings, worker_name(), shutting_down)
    finally:
        engine.dispose()


def worker_name() -> str:
    """Names this process in attempts and events."""
    return f"{socket.gethostname()}:{os.getpid()}"
