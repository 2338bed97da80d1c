"""What is kept of the audits: a file each, with what tables and plots need, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from retention_study import RESULTS
from shared.measurement import HEADLINE_MODE, Mode
from shared.reports import ConfigurationReport, Mitigation, Provenance, Report

DIGITS = 6  # of every number that is not whole
SPREAD = frozenset({"configurations", "mitigations", "outcomes"})
OF_EVERY_MODE = ("shares", "excess_decay_matched", "locality", "interaction")  # read in the headline alone


class Kept(BaseModel):
    """What every file of results says: which request it answers, and what came with the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    request_sha256: str
    warnings: list[str]
    problems: list[str]  # steps that did not succeed
    provenance: Provenance


class KeptReport(Kept):
    """The report of an audit of a batch of edits."""

    edits: int
    controls: int
    configurations: list[ConfigurationReport]
    mitigations: list[Mitigation]


class KeptProbing(BaseModel):
    """The answers to all facts' own prompts after so many steps of tuning; 0: just before it.

    right: by mode a character for each fact: 1 right, 0 wrong, - not scored. margins: log p(answer) −
    log p(alternative) in nats, just before tuning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tuning_step: int
    right: dict[Mode, str]
    margins: list[float] | None = None


class SingleOutcome(BaseModel):
    """What became of the edit by one editor. Counts are (numerator, denominator), in mode `exact`.

    reverted: whether a lost edit's answer is `target_true` again; None where it was not lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: str
    probings: list[KeptProbing]
    reverted: bool | None
    paraphrases: tuple[int, int]
    locality: tuple[int, int]
    held_out_loss_before: float | None
    held_out_loss_after: float | None


class KeptSingle(Kept):
    """The outcome of an audit of one edit. facts: the edit's id, then those of the controls."""

    seed: int
    facts: list[str]
    relations: list[str]
    outcomes: list[SingleOutcome]  # by editor


KeptT = TypeVar("KeptT", bound=Kept)


def fingerprint(request: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a request, by which its results are known to be its own."""
    document = json.dumps(request, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


def kept_report(part: str, request: Mapping[str, Any], report: Report) -> KeptReport:
    """The report without what tells one run from another, and without what no table is made of."""
    return KeptReport(
        **common(part, request, report),
        edits=report.edits,
        controls=report.controls,
        configurations=[trimmed(configuration) for configuration in report.configurations],
        mitigations=report.mitigations,
    )


def common(part: str, request: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The fields of `Kept`."""
    return {
        "part": part,
        "request_sha256": fingerprint(request),
        "warnings": report.warnings,
        "problems": [f"{problem.title}: {problem.error or problem.status}" for problem in report.problems],
        "provenance": report.provenance,
    }


def trimmed(found: ConfigurationReport) -> ConfigurationReport:
    """A configuration's measurements without what no table has: the gate's word, ids, other modes, and what
    the report may do without, but for survival.
    """
    optional = {
        name: field.get_default(call_default_factory=True)
        for name, field in ConfigurationReport.model_fields.items()
        if not field.is_required() and name != "survival"
    }
    of_headline = {
        name: [part for part in getattr(found, name) if part.mode is HEADLINE_MODE] for name in OF_EVERY_MODE
    }
    trials = [trial.model_copy(update={"step_id": "", "reused": False}) for trial in found.trials]
    changes = {**optional, **of_headline, "verdict": None, "decisions": [], "trials": trials}
    return found.model_copy(update=changes)


def formatted(kept: Kept) -> str:
    """The text of a file of results: JSON with a line for every configuration, mitigation and outcome."""
    document = plain(kept.model_dump(mode="json"))
    fields = [
        f" {compact(name)}: {spread(value) if name in SPREAD else compact(value)}"
        for name, value in document.items()
    ]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def spread(items: Sequence[Any]) -> str:
    """A JSON list, an item to a line."""
    return "[\n" + ",\n".join(f"  {compact(item)}" for item in items) + "\n ]"


def plain(value: Any) -> Any:
    """A JSON value with its numbers rounded, and without the words and terms of how they were counted."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: "" if key == "how" else plain(item) for key, item in value.items() if key != "terms"}
    return value


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def save(kept: Kept, folder: Path = RESULTS) -> Path:
    """Write a file of results, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kept.part}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(formatted(kept), encoding="utf-8")
    partial.replace(path)
    return path


def load(kind: type[KeptT], names: Sequence[str], folder: Path = RESULTS) -> list[KeptT]:
    """Those of the named results that are there."""
    paths = [folder / f"{name}.json" for name in names]
    return [kind.model_validate_json(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def is_there(part: str, request: Mapping[str, Any], folder: Path = RESULTS) -> bool:
    """Whether there are results of this very request."""
    path = folder / f"{part}.json"
    if not path.exists():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8"))["request_sha256"] == fingerprint(request))
