"""Training data behind a URL, read only where the operator allowed it.

Nothing is read but what begins with an allowed prefix, and nobody is followed elsewhere: a redirect is an
error. So no request can make the server reach a private address that its operator did not list.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence
from urllib.parse import unquote

import fsspec
import httpx

from shared.training_data.faults import SourceUnavailable, UnusableTrainingData, quoted
from shared.training_data.formats import check_size
from shared.training_data.limits import MAX_FILE_BYTES

SILENCE_SECONDS = 30.0
DEADLINE_SECONDS = 300.0
WEB_SCHEMES = frozenset({"http", "https"})
REFUSED_MARKS = ("%2e", "%25", "::", "?", "#")
AWAY_STATUSES = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS})
AWAY_ERRNOS = frozenset(
    {errno.EBUSY, errno.EIO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT}
)
# Of clients that need not be installed: aiohttp's and botocore's bases of what happens to connections.
AWAY_NAMES = frozenset({"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError"})


def read_url(url: str, allowed_prefixes: Sequence[str], source: str) -> bytes:
    """The content behind a URL.

    Raises UnusableTrainingData when that is not to be had, SourceUnavailable when it is not at the moment.
    """
    check_allowed(url, allowed_prefixes, source)
    try:
        content = fetched(url, source) if is_web(url) else read_store(url)
    except (UnusableTrainingData, SourceUnavailable):
        raise
    except ImportError as error:
        raise UnusableTrainingData(f"this server has no client for it: {error}", source) from error
    except Exception as error:  # every store raises its own
        if is_away(error):
            raise SourceUnavailable(source, f"cannot be reached ({type(error).__name__})") from error
        raise UnusableTrainingData(f"cannot be read ({type(error).__name__})", source) from error
    check_size(content, source)
    return content


def is_web(url: str) -> bool:
    """Whether a URL is read over HTTP."""
    return url.partition("://")[0] in WEB_SCHEMES


def check_allowed(url: str, allowed_prefixes: Sequence[str], source: str) -> None:
    """Raise UnusableTrainingData unless the URL begins with an allowed prefix and stays below it.

    Clients resolve `.` and `..` of a path, so neither may be in it, written plainly or not; some servers
    cut `;` and what follows off before they do, and some decode twice. The host, which can be an address
    with `::`, is the prefix's.
    """
    if not any(url.startswith(prefix) for prefix in allowed_prefixes):
        raise UnusableTrainingData("the operator of this server allows no such URL", source)
    path = url.partition("://")[2].partition("/")[2] if is_web(url) else url
    plain = unquote(path)
    steps = plain.replace("\\", "/").split("/")
    refused = any(mark in path.lower() for mark in REFUSED_MARKS) or ";" in plain
    if refused or not (url.isprintable() and plain.isprintable()) or {".", ".."} & set(steps):
        reason = "must be a plain URL, without '.', '..', '::', ';', '%25', query or fragment"
        raise UnusableTrainingData(reason, source)


def is_away(error: BaseException) -> bool:
    """Whether an error says that a host cannot be reached now; stores often say so by its cause alone."""
    if isinstance(error, httpx.TransportError):
        return not isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol))
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    if isinstance(error, OSError) and error.errno in AWAY_ERRNOS:
        return True
    if AWAY_NAMES & {kind.__name__ for kind in type(error).__mro__}:
        return True
    return error.__cause__ is not None and is_away(error.__cause__)


def fetched(url: str, source: str) -> bytes:
    """At most one byte more than a file may have, over HTTP, as it is stored there.

    Raises httpx.HTTPError, and UnusableTrainingData or SourceUnavailable by what the server answers.
    """
    content = bytearray()
    deadline = time.monotonic() + DEADLINE_SECONDS
    headers = {"Accept-Encoding": "identity"}  # what is packed on the way could unpack to any size
    with httpx.stream(
        "GET", url, headers=headers, follow_redirects=False, timeout=SILENCE_SECONDS
    ) as response:
        check_answer(response, source)
        for chunk in response.iter_raw():
            content += chunk[: MAX_FILE_BYTES + 1 - len(content)]
            if len(content) > MAX_FILE_BYTES:
                break
            if time.monotonic() > deadline:
                raise SourceUnavailable(source, f"took longer than {DEADLINE_SECONDS:g} s")
    return bytes(content)


def check_answer(response: httpx.Response, source: str) -> None:
    """Raise UnusableTrainingData or SourceUnavailable unless the body is the file."""
    status = response.status_code
    if status in AWAY_STATUSES or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise SourceUnavailable(source, f"was answered with status {status}")
    if status != httpx.codes.OK:
        raise UnusableTrainingData(f"cannot be read (status {status})", source)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        reason = f"is sent with Content-Encoding '{quoted(encoding)}'; only 'identity' is read"
        raise UnusableTrainingData(reason, source)


def read_store(url: str) -> bytes:
    """At most one byte more than a file may have, from any store that fsspec knows."""
    with fsspec.open(url, "rb") as file:
        content: bytes = file.read(MAX_FILE_BYTES + 1)
    return content
