"""`python -m migrations`: bring the configured database to the newest schema."""

from __future__ import annotations

from migrations import upgrade
from shared.settings import get_settings

if __name__ == "__main__":
    upgrade(get_settings().resolved_database_url)
