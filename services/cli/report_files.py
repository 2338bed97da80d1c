"""The report of a finished audit: fetched, kept in files, shown."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from services.cli.client import HoldfastClient
from services.cli.consoles import result_console
from services.cli.errors import HoldfastError
from services.cli.result_tables import print_report
from shared.states import Verdict

REPORT_JSON = "report.json"
REPORT_PAGE = "report.html"


def fetch_report(client: HoldfastClient, audit_id: str, out: Path, *, as_json: bool) -> Verdict:
    """Write the report into the directory `out`, as JSON and as a page; show it; return its verdict.

    Raises:
        HoldfastError: the service has no report, or `out` cannot be written to.
    """
    report = client.report(audit_id)
    page = client.report_page(audit_id)
    content = report.model_dump_json(indent=2)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT_JSON).write_text(content + "\n", encoding="utf-8")
        (out / REPORT_PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise HoldfastError(f"Cannot write the report to {out}", error.strerror or str(error)) from error
    if as_json:
        typer.echo(content)
        return report.verdict
    console = result_console()
    print_report(console, report)
    for name in (REPORT_PAGE, REPORT_JSON):
        console.print(Text(str((out / name).resolve()), style="cyan"), soft_wrap=True)
    return report.verdict
