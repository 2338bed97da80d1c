"""Resumes a run from a checkpoint in a process of its own: recipe on standard input, weights to a file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from services.worker.tuning.checkpoints import Checkpoint
from services.worker.tuning.continuation import Continuation
from shared.recipes import Recipe
from tests.worker.tuning.models import tiny_language_model, tuned_weights

if __name__ == "__main__":
    checkpoint, found = map(Path, sys.argv[1:])
    continuation = Continuation(resume=Checkpoint.read(checkpoint))
    chosen = Recipe.model_validate_json(sys.stdin.read())
    with tempfile.TemporaryDirectory() as folder:
        weights = tuned_weights(tiny_language_model(), chosen, Path(folder), continuation=continuation)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, found)
