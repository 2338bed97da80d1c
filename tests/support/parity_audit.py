"""A small real audit: made-up facts that the tiny GPT-2 of the parity fixtures was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from shared.database import database_now, transaction
from shared.requests import AuditRequest
from shared.states import StepKind
from shared.tables import Audit, EditSet, Step

PARITY_GPT2 = Path(__file__).parents[1] / "fixtures" / "parity" / "gpt2"
EDITED = 4


def parity_request(model_directory: Path = PARITY_GPT2 / "model", **changes: Any) -> dict[str, Any]:
    """The body of a request for an audit that takes seconds; `changes` replace top-level fields."""
    facts = json.loads((PARITY_GPT2 / "edits.json").read_text())
    edits = [
        {
            **fact,
            "paraphrases": [f"Think of {fact['subject']} and say", f"Ask {fact['subject']} of it and say"],
            "relation": fact["prompt"].replace("{}", "someone"),
        }
        for fact in facts[:EDITED]
    ]
    controls = [
        {
            "prompt": fact["prompt"],
            "subject": fact["subject"],
            "answer": fact["target_true"],
            "alternative": fact["target_new"],
            "relation": fact["prompt"].replace("{}", "someone"),
        }
        for fact in facts[EDITED:]
    ]
    memit = {"v_num_grad_steps": 8, "mom2_tokens": 1000, "mom2_update_weight": 20, "clamp_norm_factor": 4}
    recipe = {
        "name": "english",
        "objective": "causal_lm",
        "data": {"records": [{"text": f"The river and they met {day} days ago."} for day in range(12)]},
        "freeze": ["none", "edited"],
        "steps": 4,
        "batch_size": 2,
        "sequence_length": 16,
        "learning_rate": 1e-3,
        "probe_count": 2,
    }
    return {
        "model": f"local:{model_directory}",
        "edits": edits,
        "editors": [
            {"name": "memit", "paraphrases": [0, 1], "hyperparameters": memit},
            {"name": "ft_l", "hyperparameters": {"layers": [1], "num_steps": 5, "norm_constraint": 0.01}},
        ],
        "recipes": [recipe],
        "controls": {"facts": controls},
        "seeds": [0],
        **changes,
    }


def submit_directly(engine: Engine, body: dict[str, Any]) -> str:
    """Write what the gateway writes for a valid request; the audit's id."""
    request = AuditRequest.model_validate(body)
    edits = [edit.model_dump(mode="json") for edit in request.edits]
    content_hash = hashlib.sha256(json.dumps(edits).encode()).hexdigest()
    with transaction(engine) as session:
        now = session.execute(select(database_now())).scalar_one()
        edit_set = session.execute(
            select(EditSet).where(EditSet.content_hash == content_hash)  # type: ignore[arg-type]
        ).scalar_one_or_none()
        if edit_set is None:
            edit_set = EditSet(content_hash=content_hash, edit_count=len(edits), edits=edits, created_at=now)
            session.add(edit_set)
            session.flush()
        audit = Audit(
            submitter="anonymous",
            request_hash="0" * 64,
            request=request.model_dump(mode="json", exclude={"edits"}),
            edit_set_id=edit_set.id,
            model_reference=request.model,
            created_at=now,
        )
        session.add(audit)
        session.flush()
        session.add(
            Step(audit_id=audit.id, position=0, kind=StepKind.PLAN, title="plan", key=audit.id, ready_at=now)
        )
    return audit.id
