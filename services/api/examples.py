"""Examples for the OpenAPI document."""

from __future__ import annotations

from typing import Any

SMALL_REQUEST: dict[str, Any] = {
    "model": "builtin:almanac",
    "edits": [
        {
            "prompt": "The capital of {} is",
            "subject": "France",
            "target_new": "Lyon",
            "target_true": "Paris",
            "paraphrases": ["The seat of government of France is in"],
            "neighborhood": ["The capital of Monaco is"],
        }
    ],
    "editors": [{"name": "memit"}],
    "recipes": [
        {
            "name": "plain-text",
            "objective": "causal_lm",
            "data": {"source": "builtin:docstrings"},
            "steps": 60,
        }
    ],
}
MATRIX_REQUEST: dict[str, Any] = {
    **SMALL_REQUEST,
    "model": "hf:org/name@main",
    "editors": [
        {"name": "memit", "label": "memit-few-layers", "hyperparameters": {"layers": [4, 5]}},
        {"name": "ft_l", "paraphrases": [0, 1]},
    ],
    "recipes": [
        {
            "name": "support-tickets",
            "objective": "instructions",
            "data": {
                "records": [
                    {"prompt": "Where is my order?", "completion": "It left our warehouse this morning."},
                    {"prompt": "Can I return it?", "completion": "Yes, within thirty days."},
                ]
            },
            "update": {"kind": "lora", "rank": 16, "alpha": 32},
            "freeze": ["none", "edited"],
        }
    ],
    "gate": [{"metric": "retention", "at_least": 0.9}],
    "seeds": [0, 1, 2],
    "labels": {"team": "support"},
}
AUDIT_REQUESTS: dict[str, Any] = {
    "smallest": {"summary": "One edit, one editor, one recipe", "value": SMALL_REQUEST},
    "matrix": {"summary": "Editors × paraphrases × freezing × seeds", "value": MATRIX_REQUEST},
}
AUDIT_ID = "5f0c3a9be1d84c7f8a1e6b2d9c04f7a3"
LINKS = ("events", "results", "report", "cancel", "retry")
AUDIT_VIEW: dict[str, Any] = {
    "id": AUDIT_ID,
    "status": "queued",
    "verdict": None,
    "model": "builtin:almanac",
    "edit_count": 1,
    "labels": {},
    "priority": 0,
    "submitter": "anonymous",
    "created_at": "2026-01-15T09:30:00Z",
    "started_at": None,
    "finished_at": None,
    "model_revision": None,
    "edit_set_id": "b7e2d1905c6f4a38921d0e4f6a8b7c53",
    "edit_set_hash": "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
    "cause": None,
    "error": None,
    "retry_of": None,
    "from_scratch": False,
    "progress": 0.0,
    "seconds_left": 210.0,
    "queue_position": 1,
    "starts_in_seconds": 45.0,
    "deadlines": {"expires_at": "2026-01-22T09:30:00Z", "run_seconds": 604800},
    "steps": [
        {
            "id": "d41d8cd98f004b2e800998ecf8427e1f",
            "kind": "plan",
            "title": "plan",
            "status": "pending",
            "progress": 0.0,
            "progress_note": None,
            "seconds_left": None,
            "reused": False,
            "deaths": 0,
            "cause": None,
            "error": None,
            "started_at": None,
            "finished_at": None,
        }
    ],
    "attempts": [],
    "phase_history": [
        {
            "status": "queued",
            "entered_at": "2026-01-15T09:30:00Z",
            "left_at": None,
            "cause": None,
            "error": None,
        }
    ],
    "links": {
        "self": f"/audits/{AUDIT_ID}",
        **{part: f"/audits/{AUDIT_ID}/{part}" for part in LINKS},
    },
}
