"""Nothing is fetched but what the operator allowed, and nobody is followed elsewhere."""

from __future__ import annotations

import errno
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from pydantic import ValidationError

from shared.recipes import Objective, TextRecord, TrainingData
from shared.settings import Settings
from shared.training_data import Origins, SourceUnavailable, UnusableTrainingData, formats, read_records, urls

LINES = b'{"text": "one"}\n{"text": "two"}\n'
PAGES = {
    "/sets/a.jsonl": LINES,
    "/sets/packed.jsonl": gzip.compress(LINES),
    "/private/a.jsonl": LINES,
    "/sets/large.jsonl": b"\n" * 5_000,
}
ENCODINGS = {"/sets/packed.jsonl": "gzip"}
STATUSES = {f"/sets/{status}.jsonl": status for status in (408, 425, 429, 500, 502, 503, 504)}
REDIRECTS = {"/sets/elsewhere.jsonl": "/private/a.jsonl"}


class Handler(BaseHTTPRequestHandler):
    """Serves the pages above and writes down what it was asked for."""

    asked: list[str]
    encodings: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.encodings.append(self.headers.get("Accept-Encoding", ""))
        if self.path in REDIRECTS:
            self.send_response(302)
            self.send_header("Location", REDIRECTS[self.path])
            self.end_headers()
            return
        content = PAGES.get(self.path)
        self.send_response(STATUSES.get(self.path, 200 if content is not None else 404))
        if self.path in ENCODINGS:
            self.send_header("Content-Encoding", ENCODINGS[self.path])
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.asked, Handler.encodings = [], []
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def root(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def read(url: str, *prefixes: str) -> list[object]:
    data = TrainingData(source=f"url:{url}")
    return list(read_records(data, Objective.CAUSAL_LM, Origins(url_prefixes=prefixes)))


def refusal(url: str, *prefixes: str) -> str:
    with pytest.raises(UnusableTrainingData) as caught:
        read(url, *prefixes)
    return caught.value.reason


def test_records_behind_an_allowed_url_are_read(root: str) -> None:
    assert read(f"{root}sets/a.jsonl", f"{root}sets/") == [TextRecord(text="one"), TextRecord(text="two")]


def test_nothing_is_fetched_by_default(root: str) -> None:
    assert "allows no such URL" in refusal(f"{root}sets/a.jsonl")
    assert Handler.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "private/a.jsonl",
        "sets/../private/a.jsonl",
        "sets/%2e%2e/private/a.jsonl",
        "sets/%2E./private/a.jsonl",
        "sets/..%2fprivate/a.jsonl",
        "sets/..\\private/a.jsonl",
        "sets/./a.jsonl",
        "sets/a.jsonl?as=other.jsonl",
        "sets/a.jsonl#b.jsonl",
        "sets/a.jsonl::memory://b.jsonl",
        "sets/a\t.jsonl",
        "sets/a%09.jsonl",
        "sets/..;/private/a.jsonl",
        "sets/..%3b/private/a.jsonl",
        "sets/%252e%252e/private/a.jsonl",
    ],
)
def test_no_way_leads_out_of_an_allowed_place(root: str, path: str) -> None:
    refusal(f"{root}{path}", f"{root}sets/")
    assert Handler.asked == []


def test_a_redirect_is_not_followed(root: str) -> None:
    assert "cannot be read" in refusal(f"{root}sets/elsewhere.jsonl", f"{root}sets/")
    assert Handler.asked == ["/sets/elsewhere.jsonl"]


def test_what_is_missing_is_refused_without_the_servers_words(root: str) -> None:
    assert refusal(f"{root}sets/missing.jsonl", f"{root}sets/") == "cannot be read (status 404)"


def test_a_file_over_the_size_limit_is_refused(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_FILE_BYTES", 1_000)
    monkeypatch.setattr(urls, "MAX_FILE_BYTES", 1_000)
    assert "larger" in refusal(f"{root}sets/large.jsonl", f"{root}sets/")


def test_a_file_is_asked_for_as_it_is_stored(root: str) -> None:
    assert "Content-Encoding 'gzip'" in refusal(f"{root}sets/packed.jsonl", f"{root}sets/")
    assert Handler.encodings == ["identity"]


@pytest.mark.parametrize("path", STATUSES)
def test_a_server_in_trouble_is_away(root: str, path: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"status \d{3}"):
        read(f"{root}{path[1:]}", f"{root}sets/")


def test_a_server_that_takes_too_long_is_away(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "DEADLINE_SECONDS", -1.0)
    with pytest.raises(SourceUnavailable, match="took longer"):
        read(f"{root}sets/a.jsonl", f"{root}sets/")


def test_a_server_that_nothing_listens_for_is_away(server: ThreadingHTTPServer) -> None:
    with pytest.raises(SourceUnavailable, match="ConnectError"):
        read("http://127.0.0.1:1/a.jsonl", "http://127.0.0.1:1/")


HTTPClientError = type("HTTPClientError", (Exception,), {})  # as botocore calls it; no OSError


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(), TimeoutError(), OSError(errno.EBUSY, "SlowDown"), HTTPClientError()],
    ids=repr,
)
def test_a_store_that_cannot_be_reached_is_away(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_url: str) -> bytes:
        raise error

    monkeypatch.setattr(urls, "read_store", fail)
    with pytest.raises(SourceUnavailable):
        read("memory://bucket/a.jsonl", "memory://bucket/")


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(errno.EACCES, "no"), ValueError()])
def test_a_store_that_refuses_is_not_away(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_url: str) -> bytes:
        raise error

    monkeypatch.setattr(urls, "read_store", fail)
    assert "cannot be read" in refusal("memory://bucket/a.jsonl", "memory://bucket/")


def test_an_address_of_version_6_is_a_host() -> None:
    prefix = "http://[::1]:8000/sets/"
    assert Settings(data_url_prefixes=(prefix,)).data_url_prefixes == (prefix,)
    urls.check_allowed(f"{prefix}a.jsonl", [prefix], "url:")
    with pytest.raises(UnusableTrainingData):
        urls.check_allowed(f"{prefix}a::b.jsonl", [prefix], "url:")


def test_other_stores_are_read_through_fsspec() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/a.jsonl", LINES)
    assert len(read("memory://bucket/a.jsonl", "memory://bucket/")) == 2
    assert "cannot be read" in refusal("memory://bucket/missing.jsonl", "memory://bucket/")


def test_a_store_that_no_client_is_installed_for_is_named() -> None:
    assert "cannot be read" in refusal("nosuchstore://bucket/a.jsonl", "nosuchstore://bucket/")


@pytest.mark.parametrize(
    "prefix", ["https://data.example/", "https://data.example/sets/v1/", "s3://bucket/a/"]
)
def test_prefix_that_names_a_whole_place_is_taken(prefix: str) -> None:
    assert Settings(data_url_prefixes=(prefix,)).data_url_prefixes == (prefix,)


@pytest.mark.parametrize(
    "prefix",
    [
        "https://data.example",  # would allow https://data.example.attacker.example
        "https://data.example/sets",
        "https://someone@data.example/",
        "https:///sets/",
        "s3://[::1]/",  # '::' would chain stores
        "https://data.example/../",
        "https://",
        "file:///etc/",
        "data.example/",
        "",
    ],
)
def test_prefix_that_could_mean_more_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="HOLDFAST_DATA_URL_PREFIXES"):
        Settings(data_url_prefixes=(prefix,))
