"""Steps are addressed by what goes into them, so that an identical step is never computed twice."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

SOURCE_ROOTS = (Path(__file__).parents[1], Path(__file__).parents[3] / "shared")
NUMERIC_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "scipy")


def content_key(**parts: Any) -> str:
    """SHA-256 (hex) of the parts and of the code that acts on them."""
    document = json.dumps({"code": code_version(), **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


@cache
def code_version() -> str:
    """Changes with any line of the worker and with the libraries that numbers come from."""
    digest = hashlib.sha256()
    for name in NUMERIC_PACKAGES:
        digest.update(f"{name}=={version(name)}\n".encode())
    for root in SOURCE_ROOTS:
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
