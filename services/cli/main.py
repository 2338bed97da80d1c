"""The `holdfast` command.

Exit statuses: 0 done; 1 error; 2 wrong command line; 128 + n stopped by signal n. With `--exit-code`,
the verdict too: 0 pass, 3 fail, 4 inconclusive.
"""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from services.cli.audit_run import audit_elsewhere, audit_embedded, follow
from services.cli.client import HoldfastClient
from services.cli.consoles import message_console, reported_errors, result_console
from services.cli.edit_files import choose_edits, read_edits, read_hyperparameters
from services.cli.edit_results import print_result
from services.cli.editors_page import editors_page
from services.cli.embedded import EmbeddedService, worker_command
from services.cli.errors import HoldfastError
from services.cli.report_files import fetch_report
from services.cli.request_file import read_request
from services.cli.status import print_status
from shared.editors import CATALOGUE
from shared.settings import Settings
from shared.states import Verdict

DEFAULT_PORT = 8000
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
EXAMPLE = Path(__file__).parents[2] / "examples" / "almanac.json"
LOOK_EVERY_SECONDS = 1.0
VERDICT_STATUSES = {Verdict.PASS: 0, Verdict.FAIL: 3, Verdict.INCONCLUSIVE: 4}

app = typer.Typer(
    help="Will your knowledge edits survive fine-tuning? Holdfast finds out before you deploy.",
    epilog="Exit statuses: 0 done, 1 error, 2 wrong command line, 130 stopped by Ctrl-C;"
    " with --exit-code also 3 for the verdict 'fail' and 4 for 'inconclusive'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
workers = typer.Typer()
app.add_typer(workers, name="worker")

Url = Annotated[str, typer.Option(envvar="HOLDFAST_URL", help="Where the service is.")]
OptionalUrl = Annotated[
    str | None,
    typer.Option(envvar="HOLDFAST_URL", help="Use the service there instead of starting one."),
]
Token = Annotated[str | None, typer.Option(envvar="HOLDFAST_TOKEN", help="Bearer token for the service.")]
Out = Annotated[Path, typer.Option(file_okay=False, help="Where report.json and report.html go.")]
Data = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Keep the started service's data here, so that steps are reused."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 3 for the verdict 'fail', 4 for 'inconclusive'.")
]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
AuditId = Annotated[str, typer.Argument(metavar="ID", help="The audit's id.")]


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Data directory; by default HOLDFAST_DATA_DIRECTORY.")
    ] = None,
) -> None:
    """Run the service, gateway and worker, until it is stopped."""
    with reported_errors() as signals:
        directory = data or Settings().data_directory
        with EmbeddedService(directory, signals, host=host, port=port) as service:
            result_console().print(service.url, soft_wrap=True)
            message_console().print(f"Data: {directory}. Stop with Ctrl-C.", soft_wrap=True)
            while True:
                service.check()
                time.sleep(LOOK_EVERY_SECONDS)


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The request (JSON).")],
    url: OptionalUrl = None,
    token: Token = None,
    out: Out = Path(),
    data: Data = None,
    as_json: AsJson = False,
    exit_code: ExitCode = False,
) -> None:
    """Run the audit that FILE asks for and show its result."""
    with reported_errors() as signals:
        request = read_request(file)
        if url:
            with HoldfastClient(url, token) as client:
                verdict = audit_elsewhere(client, request, out, as_json=as_json)
        else:
            verdict = audit_embedded(data, signals, request, out, as_json=as_json)
    exit_with(verdict, exit_code=exit_code)


@app.command()
def demo(out: Out = Path(), data: Data = None) -> None:
    """Audit the built-in model with the example's edits: no network, no GPU."""
    with reported_errors() as signals:
        audit_embedded(data, signals, read_request(EXAMPLE), out, as_json=False)


@app.command()
def status(audit_id: AuditId, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show where an audit stands."""
    with reported_errors(), HoldfastClient(url, token) as client:
        view = client.get(audit_id)
        if as_json:
            typer.echo(view.model_dump_json(indent=2))
        else:
            print_status(result_console(), view)


@app.command()
def report(
    audit_id: AuditId,
    url: Url = DEFAULT_URL,
    token: Token = None,
    out: Out = Path(),
    as_json: AsJson = False,
    exit_code: ExitCode = False,
) -> None:
    """Wait for an audit to end, then fetch its report and show it."""
    with reported_errors(), HoldfastClient(url, token) as client:
        follow(client, audit_id)
        verdict = fetch_report(client, audit_id, out, as_json=as_json)
    exit_with(verdict, exit_code=exit_code)


@app.command()
def cancel(audit_id: AuditId, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Stop an audit."""
    with reported_errors(), HoldfastClient(url, token) as client:
        view = client.cancel(audit_id)
        result_console().print(f"Audit {view.id} is {view.status}.", soft_wrap=True)


@app.command()
def retry(
    audit_id: AuditId,
    url: Url = DEFAULT_URL,
    token: Token = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Take nothing over from earlier audits.")
    ] = False,
) -> None:
    """Do an audit again that has ended: a new audit of the same request."""
    with reported_errors(), HoldfastClient(url, token) as client:
        view = client.retry(audit_id, from_scratch=from_scratch)
        message_console().print(f"Audit {view.id} does audit {audit_id} again.", soft_wrap=True)
        typer.echo(view.id)


@app.command()
def edit(
    model: Annotated[
        str,
        typer.Option(
            metavar="REF", help="builtin:almanac, hf:ORG/NAME@REVISION, or the directory of a model."
        ),
    ],
    edits: Annotated[Path, typer.Option(metavar="FILE", help="The edits (JSON, or JSONL).")],
    editor: Annotated[str, typer.Option(metavar="NAME", help="One of those that 'holdfast editors' lists.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New directory for the edited model.")],
    only: Annotated[
        str | None, typer.Option(metavar="0,1,…", help="Make these edits alone, by index.")
    ] = None,
    hyperparameters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is not to be the editor's default (JSON).")
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Second moments of the keys as layer0, … (safetensors)."),
    ] = None,
    contexts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts to precede the prompts, in 'groups' (JSON).")
    ] = None,
    delta_only: Annotated[
        bool, typer.Option("--delta-only", help="Save what was changed, not the whole model.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Save intermediate results and losses, too.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="In which the model is edited and saved.")] = "float32",
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda[:n]; by default HOLDFAST_DEVICE.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of texts that the model makes up.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Keep key statistics and fetched models here; by default HOLDFAST_DATA_DIRECTORY.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Edit a model on this machine, without the service, and save it."""
    with reported_errors():
        if editor not in CATALOGUE:
            raise HoldfastError(f"There is no editor '{editor}'", f"Known: {', '.join(CATALOGUE)}.")
        if not (CATALOGUE[editor].in_weights or delta_only):
            raise HoldfastError(
                f"The edits of {editor} are not in a model's weights",
                "There is no edited model to save, only the modification.",
                hint="Save that with --delta-only.",
            )
        records = read_edits(edits)
        chosen = choose_edits(records, only)
        given = read_hyperparameters(hyperparameters, editor)
        try:
            from services.cli.editing import Order, edit_model  # the gateway's image has no worker
        except ModuleNotFoundError as error:
            raise HoldfastError(
                "Editing needs what a worker needs",
                f"{error.name} is not installed.",
                hint="pip install 'holdfast[worker]'",
            ) from error
        result = edit_model(
            Order(
                model=model,
                editor=editor,
                edits=chosen,
                unedited=tuple(record for index, record in enumerate(records) if index not in chosen),
                hyperparameters=given,
                contexts=contexts,
                statistics=statistics,
                seed=seed,
                dtype=dtype,
                device=device,
                data=data,
                out=out,
                delta_only=delta_only,
                trace=trace,
            )
        )
        if as_json:
            typer.echo(result.model_dump_json(indent=2))
        else:
            print_result(result_console(), result)
            result_console().print(Text(str(out.resolve()), style="cyan"), soft_wrap=True)


@app.command()
def editors(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page of documentation.")] = False,
) -> None:
    """List the editors and what each can be set to."""
    if markdown:
        typer.echo(editors_page(), nl=False)
        return
    console = result_console()
    for editor in CATALOGUE.values():
        console.print(Text.assemble((editor.name, "bold"), f"  {editor.title}. {editor.summary}"))
        if editor.paper:
            console.print(Text(editor.paper, style="dim"))
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("hyperparameter", "default", "meaning"):
            table.add_column(name, overflow="fold")
        for name, field in editor.hyperparameters.model_fields.items():
            table.add_row(name, json.dumps(field.default), field.description)
        console.print(table, "")


@workers.callback(invoke_without_command=True)
def worker(context: typer.Context) -> None:
    """Run a worker on this machine, for the database and broker that HOLDFAST_* name."""
    if context.invoked_subcommand is None:
        with reported_errors():
            Settings()  # what makes no sense is told here, not by a traceback
        command = worker_command()
        os.execv(command[0], command)  # noqa: S606 (our own command; it takes our place and our signals)


@workers.command("drain")
def drain_worker(
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="The worker's data directory; by default HOLDFAST_DATA_DIRECTORY."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the worker is idle.")] = True,
) -> None:
    """Have a worker end the step at hand and take nothing more, until it is started anew."""
    from services.cli.draining import ask_to_drain, wait_until_idle  # the gateway's image has no worker

    messages = message_console()
    with reported_errors():
        settings = Settings(data_directory=data) if data else Settings()
        asked = ask_to_drain(settings)
        messages.print(f"The worker of {settings.data_directory} takes nothing more.", soft_wrap=True)
        if wait:
            for doing in wait_until_idle(settings, asked):
                messages.print(doing, soft_wrap=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("holdfast"))


def exit_with(verdict: Verdict, *, exit_code: bool) -> None:
    """Leave with the verdict's exit status, if that was asked for."""
    if exit_code:
        raise typer.Exit(VERDICT_STATUSES[verdict])
