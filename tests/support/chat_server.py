"""A chat completions endpoint on the loopback interface, which answers what it was told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ChatServer:
    """What it answers, one after another, the last one for ever, and what it was sent.

    reply: makes the text of every answer from what was asked; it goes before `answers`.
    """

    answers: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[str, str | None, Any]] = field(default_factory=list)
    reply: Callable[[str], str] | None = None
    url: str = ""

    def will_answer(self, status: int, body: object = "", **headers: str) -> None:
        """Answer next with this; names of headers have underscores for hyphens."""
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, content, named))

    def next_answer(self, asked: str) -> tuple[int, bytes, dict[str, str]]:
        if self.reply is not None:
            return 200, json.dumps(completion(self.reply(asked))).encode(), {}
        return self.answers.pop(0) if self.answers[1:] else self.answers[0]


def completion(text: str) -> dict[str, Any]:
    """The answer of a model that says this."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@contextmanager
def running_chat_server() -> Iterator[ChatServer]:
    """A server on a port of its own, until the context ends."""
    state = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, self.headers["Authorization"], sent))
            status, content, headers = state.next_answer(sent["messages"][0]["content"])
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
