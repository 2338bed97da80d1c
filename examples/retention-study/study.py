"""The retention study: `python examples/retention-study/study.py write|run|tables`. See README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retention_study import TABLES
from retention_study.estimate import estimates_table
from retention_study.findings import read_findings
from retention_study.parts import read_requests
from retention_study.plots import draw
from retention_study.tables import page
from services.cli.consoles import message_console, reported_errors

DATA = Path("build/retention-study")

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def write() -> None:
    """Write the audit files."""
    from retention_study.audits import write as write_audits  # needs what a worker needs

    for path in write_audits():
        typer.echo(path)


@app.command()
def plan() -> None:
    """Print how long every audit file takes."""
    typer.echo(estimates_table(read_requests()))


@app.command()
def run(
    only: Annotated[
        str, typer.Option(help="Run the audits alone whose names begin with this.", metavar="PREFIX")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Workers, of one thread each.")] = 2,
    data: Annotated[
        Path, typer.Option(file_okay=False, help="The service's directory; steps in it are reused.")
    ] = DATA,
) -> None:
    """Run every audit of which there are no results yet; after a Ctrl-C the same command goes on."""
    from retention_study.running import run as run_audits  # starts the service

    requests = {part: request for part, request in read_requests().items() if part.startswith(only)}
    with reported_errors() as signals:
        failed = run_audits(requests, signals, message_console(), data=data, workers=workers)
    if failed:
        raise typer.Exit(1)


@app.command()
def tables() -> None:
    """Make tables.md and the plots of the results that are there."""
    findings = read_findings()
    TABLES.write_text(page(findings), encoding="utf-8")
    for path in (TABLES, *draw(findings)):
        typer.echo(path)


if __name__ == "__main__":
    app()
