"""The base of everything that a request states."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Immutable, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
