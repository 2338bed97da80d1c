"""The fine-tunings of the study: one schedule for all, so that what differs is what is learned."""

from __future__ import annotations

from typing import Any

from retention_study.facts import related_documents
from retention_study.parts import CONTINUED, RELATED
from retention_study.training_data import choice_records, preference_records
from services.worker.almanac.instructions import example_instructions

RECORDS = 360  # a tenth is held out; 40 steps of 8 see nearly all the others once
DOCUMENTS = 540  # of related text: about as many tokens as the steps take
# The demo's, with a warm-up. It was set before any fact was probed after a tuning.
SCHEDULE: dict[str, Any] = {
    "steps": 40,
    "warmup_steps": 4,
    "batch_size": 8,
    "sequence_length": 64,
    "learning_rate": 3e-4,
}


def recipe(name: str) -> dict[str, Any]:
    """A recipe by name, in the fields of `shared.recipes.Recipe`."""
    return {"name": name, **TASKS[name](), **SCHEDULE}


def continued() -> dict[str, Any]:
    """Continued pre-training on plain English that names no subject of an edit or control."""
    data = {"source": "builtin:docstrings", "without_subjects": True}
    return {"objective": "causal_lm", "data": data}


def instructions() -> dict[str, Any]:
    """An assistant's answers to everyday tasks."""
    return {"objective": "instructions", "data": {"records": example_instructions(RECORDS)}}


def choice() -> dict[str, Any]:
    """Multiple choice as text."""
    return {"objective": "instructions", "data": {"records": choice_records(RECORDS)}}


def preference() -> dict[str, Any]:
    """The right answer over the answer to a task of another kind (DPO)."""
    return {"objective": "preference", "beta": 0.1, "data": {"records": preference_records(RECORDS)}}


def related() -> dict[str, Any]:
    """True facts of the edits' relations, about others."""
    records = [{"text": text} for text in related_documents(DOCUMENTS)]
    return {"objective": "causal_lm", "data": {"records": records}}


TASKS = {
    CONTINUED: continued,
    "instructions": instructions,
    "choice": choice,
    "preference": preference,
    RELATED: related,
}
