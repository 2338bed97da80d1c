"""Run by Alembic: one transaction for the whole move, on SQLite too, where DDL takes part in it."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from shared.database import create_database_engine
from shared.settings import get_settings
from shared.tables import metadata

MIGRATION_LOCK = 4_871_520_036  # any number, the same for every process that migrates


def migrate() -> None:
    """Run the wanted revisions; processes that start together take turns."""
    url = context.config.attributes.get("database_url") or get_settings().resolved_database_url
    engine = create_database_engine(url)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite has locked the whole file by now
                connection.execute(text("SET LOCAL lock_timeout = 0"))  # others may take their time
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            context.configure(
                connection=connection,
                target_metadata=metadata,
                render_as_batch=True,
                transactional_ddl=True,
            )
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


migrate()
