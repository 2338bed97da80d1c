"""Fixtures of this directory."""

from tests.support.databases import database_url, engine, postgresql_tables

__all__ = ["database_url", "engine", "postgresql_tables"]
