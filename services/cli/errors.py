"""What can go wrong, as a person should read it."""

from __future__ import annotations

from collections.abc import Sequence

from shared.views import ProblemField


class HoldfastError(Exception):
    """Ends a command with a message.

    `status` is the HTTP status where the service refused, `fields` the fields at fault, `hint` what to
    do about it.
    """

    def __init__(
        self,
        title: str,
        detail: str = "",
        *,
        status: int | None = None,
        fields: Sequence[ProblemField] = (),
        hint: str = "",
    ) -> None:
        super().__init__(": ".join(part for part in (title, detail) if part))
        self.title = title
        self.detail = detail
        self.status = status
        self.fields = tuple(fields)
        self.hint = hint


class ServiceUnreachable(HoldfastError):
    """No answer came from the service."""


class ServiceEnded(HoldfastError):
    """A process of the embedded service ended although nobody asked it to."""


class DataDirectoryInUse(HoldfastError):
    """Another service runs on the data directory."""


class UnusableRequest(HoldfastError):
    """The request file cannot be read."""


class AuditUnsuccessful(HoldfastError):
    """The audit ended without a report."""
