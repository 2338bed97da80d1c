"""The Celery application that gateway and worker agree on. It carries wake-ups, nothing else."""

from __future__ import annotations

from typing import Any

from celery import Celery

from shared.settings import Settings

WAKE_UP_TASK = "holdfast.wake_up"
QUEUE = "holdfast"


def create_celery(settings: Settings) -> Celery:
    """Configure Celery for `settings.resolved_broker_url` (folders or Redis)."""
    celery = Celery("holdfast", broker=settings.resolved_broker_url)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the reconciler re-sends; a requeue could loop on a killer
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_soft_shutdown_timeout=settings.stop_seconds,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport_options(settings),
    )
    return celery


def send_wake_up(celery: Celery, audit_id: str) -> None:
    """Hint to any worker that `audit_id` has work. It never expires: a worker's clock may be wrong."""
    celery.send_task(WAKE_UP_TASK, args=[audit_id], queue=QUEUE, retry=False)


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.resolved_broker_url.startswith("filesystem"):
        # without time limits a broker that hangs would hold up the gateway's reaper, which shares its thread
        return {"visibility_timeout": 3600, "socket_connect_timeout": 5, "socket_timeout": 30}
    folder = settings.data_directory / "broker"
    messages, control = folder / "messages", folder / "control"
    for path in (messages, control):
        path.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
    }
