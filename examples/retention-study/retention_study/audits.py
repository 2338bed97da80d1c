"""The audits of the study: requests that differ in one thing at a time, and share every step they can.

A step is computed once for all audits that need it: the same edits, controls, editor, recipe, frozen blocks
and seed. So the parts below are small files, not one matrix, and may be run in any order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from retention_study import AUDITS
from retention_study.facts import controls, edits, stated
from retention_study.parts import (
    BATCH_EDITORS,
    BLOCKS,
    CONTINUED,
    FILES,
    MITIGATED,
    OBJECTIVES,
    ONE_BY_ONE,
    PARAPHRASES,
    SEEDS,
    SINGLE_EDITORS,
)
from retention_study.recipes import recipe
from shared.editors import ALMANAC, CATALOGUE
from shared.recipes.freezing import ranges
from shared.requests import AuditRequest

CONTAINS_TOKENS = 50  # as many as the seed study decodes to look for a control fact's answer


def objective_audit(name: str) -> dict[str, Any]:
    """All editors that edit in a batch, under one fine-tuning."""
    return audit(f"objective-{name}", BATCH_EDITORS, [recipe(name)])


def freezing_audit(editor: str) -> dict[str, Any]:
    """One editor under every freezing, its own blocks' complement among them."""
    frozen = ["none", "edited", "edited±1", "all_but_edited", complement(editor)]
    return audit(f"freezing-{editor}", [editor], [{**recipe(CONTINUED), "freeze": frozen}])


def paraphrases_audit(editor: str) -> dict[str, Any]:
    """One editor with more and more paraphrases of every edit."""
    return audit(f"paraphrases-{editor}", [editor], [recipe(CONTINUED)], paraphrases=PARAPHRASES)


def one_by_one_audit() -> dict[str, Any]:
    """What is cut into audits of one edit each."""
    return audit(ONE_BY_ONE, SINGLE_EDITORS, [recipe(CONTINUED)])


# By the name of the audit file.
MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"objective-{name}": partial(objective_audit, name) for name in OBJECTIVES},
    **{f"freezing-{editor}": partial(freezing_audit, editor) for editor in MITIGATED},
    **{f"paraphrases-{editor}": partial(paraphrases_audit, editor) for editor in MITIGATED},
    ONE_BY_ONE: one_by_one_audit,
}


def audit(
    part: str,
    editors: Sequence[str],
    recipes: Sequence[dict[str, Any]],
    *,
    paraphrases: Sequence[int] = (0,),
) -> dict[str, Any]:
    """One request: all that the parts of the study have in common, and these axes."""
    return {
        "model": ALMANAC,
        "labels": {"study": "retention", "part": part},
        "editors": [{"name": editor, "paraphrases": list(paraphrases)} for editor in editors],
        "recipes": list(recipes),
        "seeds": list(SEEDS),
        "probing": {"contains_tokens": CONTAINS_TOKENS},
        "edits": [stated(edit) for edit in edits()],
        "controls": {"facts": [stated(control) for control in controls()]},
    }


def complement(editor: str) -> str:
    """The freezing of every block that the editor does not write to; unlike `all_but_edited`, embeddings,
    final norm and head learn.
    """
    others = sorted(set(range(BLOCKS)) - set(edited_blocks(editor)))
    return f"layers:{ranges(others, separator=',')}"


def edited_blocks(editor: str) -> tuple[int, ...]:
    """The blocks of the almanac that an editor writes to by default."""
    return CATALOGUE[editor].settle(ALMANAC, {}).edited_layers(BLOCKS)


def formatted(request: dict[str, Any]) -> str:
    """The text of an audit file."""
    return json.dumps(request, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path = AUDITS) -> list[Path]:
    """Write every audit file, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FILES:
        request = MAKERS[name]()
        AuditRequest.model_validate(request)
        path = folder / f"{name}.json"
        path.write_text(formatted(request), encoding="utf-8")
        written.append(path)
    return written
