"""The history of the database schema, and the way to bring a database to its head."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import make_url


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the database to `revision`, all of it or nothing; a database already there is left alone.

    The directory of a SQLite file is created. Two processes that upgrade at once take turns.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(configuration(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take the database back to `revision`; `base` is an empty schema. Data of later tables is lost."""
    command.downgrade(configuration(database_url), revision)


def is_at_head(connection: Connection) -> bool:
    """Whether the schema is the one that this version of the code was written for."""
    heads = ScriptDirectory.from_config(configuration("")).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def configuration(database_url: str) -> Config:
    """Alembic's configuration, without its file: an installed package has none."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config
