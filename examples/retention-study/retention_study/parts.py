"""What the study is made of, by name, and its audit files as they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retention_study import AUDITS

SEEDS = (0, 1, 2)
BLOCKS = 6  # of the almanac
BATCH_EDITORS = ("memit", "alphaedit", "ft_l")
MITIGATED = ("memit", "ft_l")  # an editor that solves and one that descends
SINGLE_EDITORS = ("rome", "ft")  # the seed study's own
PARAPHRASES = (0, 1, 3, 5)

CONTINUED = "continued"  # the seed study's first downstream task
RELATED = "related"
OBJECTIVES = (CONTINUED, "instructions", "choice", "preference", RELATED)

OBJECTIVE_PARTS = tuple(f"objective-{name}" for name in OBJECTIVES)
FREEZING_PARTS = tuple(f"freezing-{editor}" for editor in MITIGATED)
PARAPHRASES_PARTS = tuple(f"paraphrases-{editor}" for editor in MITIGATED)
ONE_BY_ONE = "one-by-one"
FILES = (*OBJECTIVE_PARTS, *FREEZING_PARTS, *PARAPHRASES_PARTS, ONE_BY_ONE)  # in the order they are run


def single_part(index: int) -> str:
    """The name of the audit of one edit."""
    return f"{ONE_BY_ONE}-{index:02}"


def is_single(part: str) -> bool:
    """Whether the audit is one of those that `one-by-one` is cut into."""
    return part.startswith(f"{ONE_BY_ONE}-")


def read_requests(folder: Path = AUDITS) -> dict[str, dict[str, Any]]:
    """Every request of the study by its part: those of the files, `one-by-one` cut into its edits."""
    requests: dict[str, dict[str, Any]] = {}
    for name in FILES:
        request = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        requests |= singles(request) if name == ONE_BY_ONE else {name: request}
    return requests


def singles(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The audits of one edit each that the file `one-by-one` stands for, by part.

    Each edit is made, and its model tuned, under one of the seeds, in turn: a fact more tells more than
    another seed of the same fact. As 16 relations take turns, each has edits under every seed.
    """
    return {
        single_part(index): {
            **request,
            "labels": {**request["labels"], "part": single_part(index)},
            "edits": [edit],
            "seeds": [request["seeds"][index % len(request["seeds"])]],
        }
        for index, edit in enumerate(request["edits"])
    }
