"""Who is asking: bearer tokens, compared in constant time."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from services.api.problems import Unauthorized
from shared.settings import Settings

ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Principal:
    """A submitter. `sees_all` where no tokens are configured and nobody can be told apart."""

    submitter: str
    sees_all: bool


def authenticate(settings: Settings, authorization: str | None) -> Principal:
    """The principal that an `Authorization` header stands for.

    Every token is compared, so that the time taken tells nothing of which one came close.

    Raises:
        Unauthorized: tokens are configured and the header holds none of them.
    """
    if not settings.tokens:
        return Principal(ANONYMOUS, sees_all=True)
    scheme, _, credentials = (authorization or "").partition(" ")
    given = credentials.strip().encode()
    matches = [
        submitter
        for submitter, token in settings.tokens.items()
        if hmac.compare_digest(token.get_secret_value().encode(), given)
    ]
    if scheme.lower() != "bearer" or not given or not matches:
        raise Unauthorized
    return Principal(matches[0], sees_all=False)
