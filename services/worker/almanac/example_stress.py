"""An example of stressors: `python -m services.worker.almanac.example_stress > examples/stress.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

from services.worker.almanac.example import EDITS, example_controls, example_edits, known_facts

FURTHER = 24  # edits more, of other subjects
CONFLICTING = 8  # of the edits whose relation has another target


def example_stress() -> dict[str, Any]:
    """The demo's edits by MEMIT, under every stressor that needs nothing from outside."""
    facts = known_facts()
    edits = example_edits(facts, count=EDITS + FURTHER)
    return {
        "model": "builtin:almanac",
        "labels": {"example": "stress"},
        "editors": [{"name": "memit"}],
        "stressors": [
            {"kind": "bfloat16"},
            {"kind": "int8"},
            {"kind": "int4", "label": "int4-g32", "group_size": 32},
            {"kind": "int4", "label": "int4-g128"},
            {"kind": "magnitude_pruning", "label": "prune-20", "share": 0.2},
            {"kind": "magnitude_pruning", "label": "prune-50", "share": 0.5},
            {"kind": "interpolation", "label": "half-way", "alpha": 0.5},
            {"kind": "further_edits", "label": "24-more", "edits": edits[EDITS:]},
            {"kind": "further_edits", "label": "conflicting", "which": "conflicting", "count": CONFLICTING},
        ],
        "gate": [
            {"metric": "retention", "at_least": 0.8, "stressor": "*"},
            {"metric": "excess_decay", "at_most": 0.1, "stressor": "*"},
        ],
        "seeds": [0],
        "edits": edits[:EDITS],
        "controls": {"facts": example_controls(facts, edits_made=EDITS + FURTHER)},
    }


def main() -> None:
    """Print the request."""
    json.dump(example_stress(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
