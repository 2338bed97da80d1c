"""The worker's Celery application: `celery -A services.worker.app worker --pool solo`.

The parent process stays light: it never imports torch. The model lives in the child that the
supervisor spawns.
"""

from __future__ import annotations

from services.worker.health import IdleHeartbeat
from shared.broker import create_celery
from shared.settings import get_settings

celery = create_celery(get_settings())
celery.conf.imports = ("services.worker.tasks",)
celery.steps["worker"].add(IdleHeartbeat)
