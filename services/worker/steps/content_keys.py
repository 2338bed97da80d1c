"""Steps are addressed by what goes into them, so that an identical step is never computed twice."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SOURCE_ROOTS = (Path(__file__).parents[1], Path(__file__).parents[3] / "shared")
NUMERIC_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "scipy")
OPTIONAL_PACKAGES = ("bitsandbytes",)  # numbers come from these too, where they are installed


def content_key(**parts: Any) -> str:
    """SHA-256 (hex) of the parts and of the code that acts on them."""
    document = json.dumps({"code": code_version(), **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


def optional_packages() -> dict[str, str]:
    """Versions of those optional packages that are installed, by name."""
    found = {}
    for name in OPTIONAL_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def code_version() -> str:
    """Changes with any line of the worker and with the libraries that numbers come from."""
    digest = hashlib.sha256()
    packages = {name: version(name) for name in NUMERIC_PACKAGES} | optional_packages()
    for name, installed in packages.items():
        digest.update(f"{name}=={installed}\n".encode())
    for root in SOURCE_ROOTS:
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
