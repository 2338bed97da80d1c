"""The facts of the study: edits and control facts that no two parts of it see differently."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from services.worker.almanac.example import example_controls, example_edits
from services.worker.almanac.facts import Fact, load_facts
from shared.edits import ControlFact, Edit

EDITS = 48  # three of each of the almanac's 16 relations
CONTROLS = 96  # six of each
SENTENCES = 3  # to a document about related facts
SEED = 11


@cache
def edits() -> tuple[Edit, ...]:
    """Counterfactual edits of real facts, relations in turn, with 7 paraphrases each.

    They are drawn from all that the almanac was taught, whether or not it learned it (its card: 99.9 %).
    """
    return tuple(Edit.model_validate(edit) for edit in example_edits(load_facts(), count=EDITS))


@cache
def controls() -> tuple[ControlFact, ...]:
    """Facts of the same relations about subjects that no edit, nor a neighbour of one, names."""
    drawn = example_controls(load_facts(), edits_made=EDITS, count=CONTROLS)
    return tuple(ControlFact.model_validate(control) for control in drawn)


def stated(part: Edit | ControlFact) -> dict[str, Any]:
    """An edit or a control as a request states it, without what is empty."""
    return {name: value for name, value in part.model_dump(mode="json").items() if value}


def related_documents(count: int) -> list[str]:
    """True sentences of the edits' relations about subjects that are neither edited, nor controls, nor
    neighbours: text related to the edits that says nothing of them.
    """
    draw = random.Random(SEED)  # noqa: S311 (a draw to be repeated, nothing secret)
    others = unmeasured_facts()
    return [" ".join(sentence(fact, draw) for fact in draw.sample(others, SENTENCES)) for _ in range(count)]


def unmeasured_facts() -> list[Fact]:
    """The almanac's facts that name nothing that anything measured is about, be it as their object."""
    asked = [prompt for edit in edits() for prompt in (edit.full_prompt, *edit.neighborhood)]
    asked += [control.full_prompt for control in controls()]
    text = "\n".join(asked)
    return [
        fact
        for fact in load_facts()
        if fact.subject not in text and not names_measured(f"{fact.subject} | {fact.object}")
    ]


def names_measured(text: str) -> bool:
    """Whether a text names the subject of an edit or of a control, as whole words."""
    return measured_subjects().search(text) is not None


@cache
def measured_subjects() -> re.Pattern[str]:
    """Finds the subject of any edit or control."""
    subjects: Iterable[str | None] = {edit.subject for edit in edits()} | {
        part.subject for part in controls()
    }
    return re.compile(rf"(?<!\w)({'|'.join(re.escape(subject) for subject in subjects if subject)})(?!\w)")


def sentence(fact: Fact, draw: random.Random) -> str:
    """The fact in one of the phrasings that pre-training showed."""
    return f"{draw.choice(fact.trained_phrasings).format(fact.subject)} {fact.object}."
