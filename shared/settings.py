"""Every setting of gateway and worker, read from `HOLDFAST_*` environment variables."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

URL_PLACE = re.compile(
    r"(?!file:|local:|memory:|(?!https?:)\S*::)[a-z][a-z0-9+]*://[^/@\s]+/(?:(?!\.\.?/)[^/\s]+/)*"
)
STOP_MARGIN_SECONDS = 10.0  # for the last writes


class Settings(BaseSettings):
    """One data directory is all the embedded deployment needs; a cluster sets the URLs."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    data_directory: Path = Field(Path("holdfast-data"), description="Database, broker and artifacts.")
    database_url: str = Field("", description="SQLAlchemy URL; by default SQLite in the data directory.")
    broker_url: str = Field("", description="Celery broker; by default folders in the data directory.")
    artifacts_url: str = Field("", description="fsspec URL; by default a folder in the data directory.")
    model_roots: tuple[Path, ...] = Field((), description="Directories that `local:` models may lie under.")
    data_roots: tuple[Path, ...] = Field((), description="Directories that `file:` records may lie under.")
    data_url_prefixes: tuple[str, ...] = Field(
        (), description="What `url:` records may begin with (JSON list), ending in `/`; by default none."
    )
    hub_endpoint: str | None = Field(None, description="Base URL of the model hub; None is the public one.")
    hub_token: SecretStr | None = Field(None, description="Token for gated or private models on the hub.")
    hub_timeout_seconds: float = Field(10.0, gt=0, description="How long the hub may stay silent.")
    paraphrase_url: str | None = Field(
        None,
        pattern=r"^https?://[^@\s]+$",
        description="Base URL of the endpoint (OpenAI's chat completions) that writes paraphrases.",
    )
    paraphrase_key: SecretStr | None = Field(None, description="Bearer token of that endpoint.")
    paraphrase_model: str = Field("", description="The model that the endpoint is asked for.")
    paraphrase_timeout_seconds: float = Field(60.0, gt=0, description="How long one answer may take.")
    paraphrase_retries: int = Field(
        4, ge=0, le=20, description="How often a call that failed is made again before the step is put off."
    )
    tokens: dict[Annotated[str, Field(min_length=1, max_length=64)], SecretStr] = Field(
        default_factory=dict, description="Submitter → bearer token (JSON). Empty: anyone who can connect."
    )
    max_body_bytes: int = Field(32 * 2**20, gt=0, description="Largest request that the gateway reads.")
    device: str = Field("auto", description="`auto`, `cpu` or `cuda[:n]`.")
    threads: int = Field(0, ge=0, description="CPU threads of a worker's child; 0 leaves it to torch.")
    tuning_processes: int = Field(
        1,
        ge=1,
        description="Processes that share a fine-tuning, each on a GPU of its own where there are GPUs.",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="Silence of a worker after which its audit goes back to the queue."
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a worker renews its lease.")
    cancel_grace_seconds: float = Field(10.0, gt=0, description="From SIGTERM to SIGKILL of the child.")
    cancel_deadline_seconds: float = Field(
        20.0, gt=0, description="From a cancel to its being carried out without the workers, if need be."
    )
    handover_seconds: float = Field(
        30.0, gt=0, description="How long a worker that is stopped may take to hand its step over."
    )
    reconcile_seconds: float = Field(5.0, gt=0, description="How often the gateway looks for what was lost.")
    max_step_attempts: int = Field(3, ge=1, description="Deaths of a step after which it fails for good.")
    retry_wait_seconds: float = Field(
        10.0, ge=0, description="Wait before a step is tried again whose surroundings were away; then ×4."
    )
    turn_seconds: float = Field(
        300.0, gt=0, description="After so long a worker makes way, between two steps, for audits that wait."
    )
    checkpoint_seconds: float = Field(300.0, gt=0, description="How often a fine-tuning is saved, at most.")
    silence_seconds: float = Field(
        1800.0, gt=0, description="A step that shows no progress for so long is ended, and tried again."
    )
    queue_deadline_seconds: int = Field(
        7 * 86400, gt=0, description="Time to queue of audits that do not set their own."
    )
    run_deadline_seconds: int = Field(
        7 * 86400, gt=0, description="Time to run of audits that do not set their own."
    )
    checkpoint_retention_days: float = Field(
        7.0, ge=0, description="How long checkpoints are kept for retries once their audit has ended."
    )

    @field_validator("data_directory", mode="after")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().resolve()

    @field_validator("data_url_prefixes", mode="after")
    @classmethod
    def _whole_places(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not URL_PLACE.fullmatch(prefix):
                raise ValueError(
                    f"HOLDFAST_DATA_URL_PREFIXES: {prefix!r} is not like https://host/path/ or s3://bucket/, "
                    "with the slash at its end and without a user, '.' or '..'"
                )
        return prefixes

    @model_validator(mode="after")
    def _endpoint_is_whole(self) -> Self:
        if self.paraphrase_url is not None and not self.paraphrase_model:
            raise ValueError("HOLDFAST_PARAPHRASE_URL needs HOLDFAST_PARAPHRASE_MODEL, which it is asked for")
        return self

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError(
                "HOLDFAST_HEARTBEAT_SECONDS must be at most half of HOLDFAST_LEASE_SECONDS"
                f" (it is {self.heartbeat_seconds:g}, the lease {self.lease_seconds:g}): a worker that misses"
                " one heartbeat must not lose its lease"
            )
        least = self.heartbeat_seconds + self.cancel_grace_seconds
        if self.cancel_deadline_seconds <= least:
            raise ValueError(
                "HOLDFAST_CANCEL_DEADLINE_SECONDS must be more than HOLDFAST_HEARTBEAT_SECONDS and"
                f" HOLDFAST_CANCEL_GRACE_SECONDS together (it is {self.cancel_deadline_seconds:g}, they are"
                f" {least:g}): workers must have the time to carry a cancel out"
            )
        return self

    @property
    def stop_seconds(self) -> float:
        """How long a worker that is stopped can take: its step handed over, or its child ended by force."""
        return self.handover_seconds + self.cancel_grace_seconds + STOP_MARGIN_SECONDS

    @property
    def resolved_database_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{self.data_directory / 'holdfast.db'}"

    @property
    def resolved_broker_url(self) -> str:
        """The broker in use."""
        return self.broker_url or "filesystem://"

    @property
    def resolved_artifacts_url(self) -> str:
        """The artifact store in use."""
        return self.artifacts_url or (self.data_directory / "artifacts").as_uri()


@cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
