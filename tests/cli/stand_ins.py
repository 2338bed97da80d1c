"""Small processes that stand in for the gateway and the worker, and a parent that runs them.

As a script: `python -m tests.cli.stand_ins DIRECTORY` starts an embedded service of stand-ins, prints
its address and waits for a signal.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from services.cli.consoles import reported_errors
from services.cli.embedded import Commands, EmbeddedService
from services.cli.signals import StopSignals

# Ready when the worker's family is there, which its log says.
GATEWAY = """
import os, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.getsize("logs/worker.log") else 503)
        self.end_headers()

server = HTTPServer(("", 0), Ready, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""

# Leads a family: a child of its own that nobody would stop if only the leader were signalled. It
# tells through the descriptor it is given, which all the family holds, that it is there.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
member = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
os.write(int(sys.argv[1]), b"r")
time.sleep(600)
"""


def gateway(fd: int) -> list[str]:
    """The command of the gateway."""
    return [sys.executable, "-c", GATEWAY, str(fd)]


COMMANDS = Commands(
    migrations=[sys.executable, "-c", ""],
    gateway=gateway,
    worker=[sys.executable, "-c", FAMILY, "1"],
)


def embedded_service(directory: Path, signals: StopSignals) -> EmbeddedService:
    """A service of stand-ins."""
    return EmbeddedService(directory, signals, commands=COMMANDS)


def main(directory: Path) -> None:
    """Run a service of stand-ins until a signal comes."""
    with reported_errors() as signals, embedded_service(directory, signals) as service:
        typer.echo(service.url)
        time.sleep(600)


if __name__ == "__main__":
    typer.run(main)
