"""Every kind of problem, for the address that its `type` leads to."""

from __future__ import annotations

from services.api.problems import ProblemError
from shared.views import View


class ProblemKind(View):
    """A kind of problem and what it means."""

    type: str
    title: str
    status: int
    meaning: str


def kinds_of_problem() -> dict[str, ProblemKind]:
    """The kinds by name."""
    return {
        kind.name: ProblemKind(
            type=f"/problems/{kind.name}", title=kind.title, status=kind.status, meaning=kind.__doc__ or ""
        )
        for kind in ProblemError.__subclasses__()
    }
