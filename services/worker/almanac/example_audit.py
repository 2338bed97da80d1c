"""The audit that the demo runs: `python -m services.worker.almanac.example_audit > examples/almanac.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

from services.worker.almanac.example import example_controls, example_edits, known_facts
from services.worker.almanac.instructions import example_instructions

INSTRUCTIONS = 120


def example_audit() -> dict[str, Any]:
    """Two editors, paraphrases or none, freezing or none, plain English and an assistant's instructions."""
    facts = known_facts()
    return {
        "model": "builtin:almanac",
        "labels": {"example": "almanac"},
        "editors": [
            {"name": "memit", "paraphrases": [0, 3]},
            {"name": "ft_l"},
        ],
        "recipes": [
            {
                "name": "english",
                "objective": "causal_lm",
                "data": {"source": "builtin:docstrings"},
                "freeze": ["none", "edited"],
                "steps": 40,
                "batch_size": 8,
                "sequence_length": 64,
                "learning_rate": 3e-4,
            },
            {
                "name": "assistant",
                "objective": "instructions",
                "data": {"records": example_instructions(INSTRUCTIONS)},
                "update": {"kind": "lora", "rank": 16, "alpha": 32},
                "steps": 40,
                "batch_size": 8,
                "sequence_length": 64,
                "learning_rate": 1e-3,
            },
        ],
        "gate": [
            {"metric": "efficacy", "at_least": 0.7},
            {"metric": "retention", "at_least": 0.8},
            {"metric": "excess_decay", "at_most": 0.1},
        ],
        "seeds": [0],
        "edits": example_edits(facts),
        "controls": {"facts": example_controls(facts)},
    }


def main() -> None:
    """Print the request."""
    json.dump(example_audit(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
