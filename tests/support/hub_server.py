"""A model hub on the loopback interface: the part of the hub's protocol that its client speaks.

Large files live on another origin (the CDN), as on the real hub: a request for one is answered with
a redirect that carries the file's hash and size.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin")


@dataclass
class Repository:
    """Files of every commit, and where each branch stands."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit and move `branch` to it."""
        stated = "".join(f"{name} {hashlib.sha1(content).hexdigest()}" for name, content in files.items())  # noqa: S324
        commit = hashlib.sha1(stated.encode()).hexdigest()  # noqa: S324 (git's own hash)
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own hash names."""
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    origin: str  # "hub" or "cdn"
    method: str
    path: str
    authorization: str | None


@dataclass
class Hub:
    """State of the hub, shared with its request handlers."""

    token: str = "hf_secret"  # noqa: S105
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent_files: set[str] = field(default_factory=set)  # names of the files whose content was asked for
    broken: dict[str, int] = field(default_factory=dict)  # origin → the status it answers everything with
    url: str = ""
    cdn_url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]
    origin: ClassVar[str]

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay quiet."""

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        self.hub.requests.append(Request(self.origin, self.command, path, authorization))
        if self.origin in self.hub.broken:
            self._fail(self.hub.broken[self.origin])
        elif self.origin == "cdn":
            self._send_blob(path)
        elif path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"), authorization)
        else:
            self._resolve(path.removeprefix("/"), authorization)

    def _describe(self, path: str, authorization: str | None) -> None:
        name, _, revision = path.partition("/revision/")
        repository = self._repository(name, authorization)
        if repository is None:
            return self._fail(401, "RepoNotFound")
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        siblings = [{"rfilename": file} for file in repository.commits[commit]]
        body = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
        body["gated"] = "manual" if repository.gated else False
        return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str, authorization: str | None) -> None:
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self._repository(name, authorization)
        if repository is None:
            return self._fail(401, "RepoNotFound")
        if repository.gated and authorization != f"Bearer {self.hub.token}":
            return self._fail(403, "GatedRepo")
        commit = repository.resolve(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        content = repository.commits[commit].get(file)
        if content is None:
            return self._fail(404, "EntryNotFound")
        hashed = hashlib.sha256(content).hexdigest()
        if not file.endswith(LARGE_SUFFIXES):
            self._note_sent(file)
            return self._send(200, content, {"ETag": f'"{hashed[:40]}"', "X-Repo-Commit": commit})
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{hashed}"',
            "X-Linked-Size": str(len(content)),
        }
        return self._send(302, b"", {**headers, "Location": f"{self.hub.cdn_url}/{hashed}/{file}"})

    def _send_blob(self, path: str) -> None:
        hashed, file = path.split("/")[1:]
        self._note_sent(file)
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == hashed:
                        return self._send(200, content, {"ETag": f'"{hashed}"'})
        return self._fail(404)

    def _repository(self, name: str, authorization: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository and repository.private and authorization != f"Bearer {self.hub.token}":
            return None
        return repository

    def _note_sent(self, file: str) -> None:
        if self.command == "GET":
            self.hub.sent_files.add(file)

    def _fail(self, status: int, code: str | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        total = len(content)
        ranged = self.headers.get("Range")
        if status == 200 and ranged:
            start = int(ranged.removeprefix("bytes=").split("-")[0])
            content, status = content[start:], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub without repositories, and its CDN."""
    hub = Hub()
    with _serving(hub, "hub") as hub.url, _serving(hub, "cdn") as hub.cdn_url:
        yield hub


@contextmanager
def _serving(hub: Hub, origin: str) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub, "origin": origin})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
