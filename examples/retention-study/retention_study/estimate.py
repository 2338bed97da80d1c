"""How long the study takes: what each part adds to those before it, and its time on one core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from retention_study.markdown import table
from retention_study.parts import BLOCKS, ONE_BY_ONE, is_single
from retention_study.results import fingerprint
from shared.editors import CATALOGUE
from shared.recipes import Freeze, Objective, Recipe
from shared.requests import AuditRequest, EditorChoice

# Seconds on one core of an AMD EPYC: 40 steps of 512 tokens, held-out loss, probes; preference scores
# every record under the model that it starts from first.
TUNING_SECONDS = {Objective.CAUSAL_LM: 22, Objective.INSTRUCTIONS: 22, Objective.PREFERENCE: 36}
AUDIT_SECONDS = 15  # plan, base, analysis, and what a worker needs to take them up
EDITING_SECONDS = 12  # a batch, and its probes


class Estimate(NamedTuple):
    """Of one file: its audits, its tunings, those that no file before it has, and minutes on one core."""

    name: str
    audits: int
    tunings: int
    new: int
    minutes: float


def estimates(requests: Mapping[str, Mapping[str, Any]]) -> list[Estimate]:
    """One for each audit file, in the order in which they are run; by part, as `read_requests` gives them."""
    known: set[str] = set()
    found: dict[str, Estimate] = {}
    for part, body in requests.items():
        request = AuditRequest.model_validate(body)
        mine = dict(tunings(request))
        new = {key: seconds for key, seconds in mine.items() if key not in known}
        known |= new.keys()
        edits = sum(len(choice.paraphrases) for choice in request.editors)
        seconds = sum(new.values()) + AUDIT_SECONDS + (1 if is_single(part) else EDITING_SECONDS) * edits
        name = ONE_BY_ONE if is_single(part) else part
        before = found.get(name, Estimate(name, 0, 0, 0, 0.0))
        found[name] = Estimate(
            name,
            before.audits + 1,
            before.tunings + len(mine),
            before.new + len(new),
            before.minutes + seconds / 60,
        )
    return list(found.values())


def tunings(request: AuditRequest) -> Iterator[tuple[str, int]]:
    """The fine-tunings of an audit, each by what tells it from others, with its seconds on one core."""
    subject = {
        "edits": [edit.model_dump(mode="json") for edit in request.edits],
        "controls": request.controls.model_dump(mode="json"),
        "probing": request.probing.model_dump(mode="json"),
        "held_back": max(choice.own_paraphrases for choice in request.editors),
    }
    for recipe in request.recipes:
        settings = recipe.model_dump(mode="json", exclude={"name", "freeze"})
        seconds = TUNING_SECONDS[recipe.objective]
        for freeze, seed, choice in cases(request, recipe):
            what = {"subject": subject, "recipe": settings, "seed": seed, "frozen": frozen(freeze, choice)}
            yield fingerprint(what), seconds
            for count in choice.paraphrases:
                yield fingerprint({**what, "editor": choice.name, "paraphrases": count}), seconds


def cases(request: AuditRequest, recipe: Recipe) -> Iterator[tuple[Freeze, int, EditorChoice]]:
    """Every freezing, seed and editor of a recipe."""
    for freeze in recipe.freeze:
        for seed in request.seeds:
            for choice in request.editors:
                yield freeze, seed, choice


def frozen(freeze: Freeze, choice: EditorChoice) -> list[int] | str:
    """The blocks that are frozen, or a text where it is not blocks alone."""
    edited = CATALOGUE[choice.name].settle("builtin:almanac", choice.hyperparameters).edited_layers(BLOCKS)
    if freeze.kind == "edited":
        near = range(-freeze.margin, freeze.margin + 1)
        return sorted({block + step for block in edited for step in near} & set(range(BLOCKS)))
    return f"{freeze} {edited}" if freeze.follows_edits else list(freeze.layers)


def estimates_table(requests: Mapping[str, Mapping[str, Any]]) -> str:
    """The estimates in Markdown."""
    found = estimates(requests)
    total = Estimate(
        "all",
        *(sum(getattr(part, name) for part in found) for name in ("audits", "tunings", "new", "minutes")),
    )
    header = [
        "audit file",
        "audits",
        "tunings",
        "of these not shared with a file above",
        "minutes on one core",
    ]
    rows = [
        [f"`{part.name}`", str(part.audits), str(part.tunings), str(part.new), f"{part.minutes:.0f}"]
        for part in (*found, total)
    ]
    return table(header, rows)
