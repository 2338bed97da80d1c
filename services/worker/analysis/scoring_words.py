"""What a metric counts and when it counts an answer as right, in words for readers of that metric alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.measurement import Mode

HOW = {
    "first_token": "Right where the likeliest next token is the answer's first.",
    "exact": "Right where greedy decoding starts with exactly the answer: every token of it is the argmax.",
    "preference": "Right where the answer is likelier than its alternative, by summed log-probabilities.",
    "contains": "Right where the answer occurs in the text that is decoded greedily.",
}
WHAT = {
    "share_right": "Probes answered right among those asked at this arm.",
    "retention": "Right after tuning (edited→tuned) among those right just before it (edited).",
    "reversion": (
        "Of the edits lost (right in edited, wrong in edited→tuned), those whose answer is now target_true, "
        "every token of it the argmax."
    ),
    "locality": "Neighbourhood probes still right among those right in the base model.",
    "excess_decay": "Retention of controls − retention of edits.",
    "excess_decay_matched": (
        "Retention of the controls that each edit is matched with, by relation and by margin before tuning − "
        "retention of edits."
    ),
    "interaction": "(edited→tuned − edited) − (base→tuned − base), in the share of controls right.",
    "retention_gained": "Retention of edits − that of the configuration compared with.",
    "locality_cost": "Locality of the configuration compared with − this one's, before tuning (edited).",
    "locality_cost_tuned": "The same of the models as deployed, after tuning (edited→tuned).",
}


def how_measured(name: str, mode: Mode) -> str:
    """What the metric `name` counts, and what makes an answer right in `mode`."""
    return " ".join(part for part in (WHAT.get(name, ""), how_scored(mode)) if part)


def how_scored(mode: Mode) -> str:
    """What makes an answer right in `mode`."""
    return HOW[mode.value]
