"""What an editor achieved: as data, and as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.wording import NOTHING, percent
from shared.measurement import Mode, Probe, ProbeKind, ProbeScore
from shared.reports import EditNotTaken

SHOWN_MISSES = 20


class Share(BaseModel):
    """So many right answers of so many."""

    right: int
    of: int

    def __str__(self) -> str:
        return f"{percent(self.right / self.of)}  {self.right}/{self.of}" if self.of else NOTHING


class BeforeAndAfter(BaseModel):
    """A share in the model as it came, and in the edited one."""

    before: Share
    after: Share


class EditResult(BaseModel):
    """What `holdfast edit` found.

    neighborhood_kept: of the neighbourhood prompts that the model answered exactly before, those that it
    still does.
    """

    model_config = ConfigDict(protected_namespaces=())

    model: str
    model_revision: str
    dtype: str
    editor: str
    hyperparameters: dict[str, Any]
    edited_layers: list[int]
    edits: int
    exact: BeforeAndAfter
    first_token: BeforeAndAfter
    paraphrases: BeforeAndAfter
    neighborhood: BeforeAndAfter
    neighborhood_kept: Share
    not_taken: list[EditNotTaken]
    warnings: list[str]


class Scored(NamedTuple):
    """One probe with its scores in the model as it came and in the edited one."""

    probe: Probe
    before: ProbeScore
    after: ProbeScore


def compare(scored: Sequence[Scored], kind: ProbeKind, mode: Mode = Mode.EXACT) -> BeforeAndAfter:
    """The share of right answers to one kind of probe."""
    chosen = [row for row in scored if row.probe.probe_kind is kind]
    return BeforeAndAfter(
        before=Share(right=sum(bool(row.before.right(mode)) for row in chosen), of=len(chosen)),
        after=Share(right=sum(bool(row.after.right(mode)) for row in chosen), of=len(chosen)),
    )


def kept(scored: Sequence[Scored]) -> Share:
    """Of the neighbourhood prompts that were answered exactly before, those that still are."""
    known = [row for row in scored if row.probe.probe_kind is ProbeKind.NEIGHBORHOOD and row.before.exact]
    return Share(right=sum(row.after.exact for row in known), of=len(known))


def print_result(console: Console, result: EditResult) -> None:
    """Print what the edits did, and which did not take."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    for name, shares in (
        ("edits, exact", result.exact),
        ("edits, first token", result.first_token),
        ("paraphrases, exact", result.paraphrases),
        ("neighbourhood, exact", result.neighborhood),
    ):
        if shares.before.of:
            table.add_row(name, str(shares.before), str(shares.after))
    if result.neighborhood_kept.of:
        table.add_row("neighbourhood kept", "", str(result.neighborhood_kept))
    console.print(table)
    for line in not_taken_lines(result.not_taken, f"of {result.edits} edits did not take"):
        console.print(line, soft_wrap=True)
    for warning in result.warnings:
        console.print(Text(f"note: {warning}", style="yellow"), soft_wrap=True)


def not_taken_lines(missed: Sequence[EditNotTaken], what: str, shown: int = SHOWN_MISSES) -> Iterator[Text]:
    """How many edits did not take, and each of the first with what is answered instead."""
    if missed:
        yield Text(f"{len(missed)} {what}:", style="yellow")
    for edit in missed[:shown]:
        yield Text.assemble(
            (f"  {edit.index}", "bold"),
            f"  {edit.prompt} ",
            (edit.answer, "red"),
            (f"  not: {edit.target_new}", "dim"),
        )
    if len(missed) > shown:
        yield Text(f"  and {', '.join(str(edit.index) for edit in missed[shown:])}")
