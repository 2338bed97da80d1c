"""The built-in model `builtin:almanac`: a small decoder that knows a few thousand real facts.

The package holds its facts, its corpus, its training and its measurement; `model/` holds the result.
"""

from pathlib import Path

from services.worker.almanac.facts import Fact, load_facts

MODEL_DIRECTORY = Path(__file__).parent / "model"

__all__ = ["MODEL_DIRECTORY", "Fact", "load_facts"]
