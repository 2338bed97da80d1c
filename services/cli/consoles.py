"""Where the command line writes to, and how it says that something went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.text import Text

from services.cli.errors import HoldfastError
from services.cli.signals import Interrupted, StopSignals
from shared.settings import Settings

ERROR_STATUS = 1


def message_console() -> Console:
    """For progress and messages: standard error, so that standard output holds results alone."""
    return Console(stderr=True, highlight=False)


def result_console() -> Console:
    """For results."""
    return Console(highlight=False)


@contextmanager
def reported_errors() -> Iterator[StopSignals]:
    """Turn errors and stop signals into a message and an exit status."""
    messages = message_console()
    try:
        with StopSignals() as signals:
            yield signals
    except Interrupted as interrupted:
        messages.print(Text(f"Stopped by {interrupted.number.name}.", style="yellow"))
        raise typer.Exit(interrupted.exit_status) from None
    except HoldfastError as error:
        print_error(messages, error)
        raise typer.Exit(ERROR_STATUS) from None
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for field in error.errors():
            messages.print(Text(f"Error: {_fault(field)}", style="bold red"), soft_wrap=True)
        raise typer.Exit(ERROR_STATUS) from None


def _fault(field: ErrorDetails) -> str:
    """What is wrong with a setting; a rule over several names them itself."""
    if not field["loc"]:
        return field["msg"].removeprefix("Value error, ")
    name = "_".join(("HOLDFAST", *map(str, field["loc"]))).upper()
    return f"{name}: {field['msg']}"


def print_error(console: Console, error: HoldfastError) -> None:
    """Print what went wrong, where, and what to do about it."""
    console.print(Text(f"Error: {error.title}", style="bold red"), soft_wrap=True)
    if error.detail:
        console.print(Text(error.detail), soft_wrap=True)
    for field in error.fields:
        console.print(
            Text.assemble("  ", (field.pointer or "/", "bold"), f"  {field.detail}"), soft_wrap=True
        )
    if error.hint:
        console.print(Text(error.hint, style="dim"), soft_wrap=True)
