"""Reading the compose files as compose itself would, as far as these files need it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "docker-compose.yml"
GPU = ROOT / "docker-compose.gpu.yml"
EXAMPLE_ENVIRONMENT = ROOT / "docker" / "example.env"
REQUIRED = {
    "DATABASE_PASSWORD": "secret1",
    "BROKER_PASSWORD": "secret2",
    "HOLDFAST_TOKENS": '{"alice": "secret3"}',
}
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")


class VariableMissing(Exception):
    """A variable without a default is unset or empty; compose refuses to start then."""


def load(*files: Path, environment: Mapping[str, str] = REQUIRED) -> dict[str, Any]:
    """The files, interpolated and merged, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, interpolate(yaml.safe_load(file.read_text()), environment))
    return merged


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` in every string."""
    if isinstance(value, dict):
        return {key: interpolate(entry, environment) for key, entry in value.items()}
    if isinstance(value, list):
        return [interpolate(entry, environment) for entry in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if name is None:
            return "$"
        found = environment.get(name, "")
        if not found and kind == "?":
            raise VariableMissing(f"{name}: {rest}")
        return found or (rest if kind == "-" else "")

    return VARIABLE.sub(replace, value)


def merge(base: Any, override: Any) -> Any:
    """Mappings are merged, anything else is replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return base | {key: merge(base.get(key), entry) for key, entry in override.items()}
    return override


def variables(text: str) -> set[str]:
    """Names of the variables that a compose file reads."""
    return {match["name"] for match in VARIABLE.finditer(text) if match["name"]}
