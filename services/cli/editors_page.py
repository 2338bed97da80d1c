"""The catalogue of editors as a page of the documentation (Markdown)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shared.editors import CATALOGUE, EditorDescription

INTRODUCTION = """\
# Editors

What `editors` of an audit, and `holdfast edit --editor`, can name. This page is made from the catalogue by
`holdfast editors --markdown`; `GET /editors` has the same with a JSON Schema of every editor.

Hyperparameters that are not given have the default of the model, of its family (the `model_type` of its
`config.json`), or of the editor, the first that there is. Layers are blocks, counted from 0; losses are in
nats.

ROME, MEMIT and their kin invert the second moment of a layer's keys. Where the texts it was taken over leave
some neurons, or combinations of them, all but silent (a pivot below 1e-6 of the diagonal's mean), that much
is added to the diagonal, and the report says so: without it edits are written there with weights that can be
thousands of times as large as the model's own, answer as asked, and are gone after any rounding. More
`mom2_tokens`, or a `mom2_corpus` that resembles what the model was trained on, settle it better."""

SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def editors_page() -> str:
    """The page, which ends in one line break."""
    parts = [INTRODUCTION, overview(), *map(section, CATALOGUE.values())]
    return "\n\n".join(parts) + "\n"


def overview() -> str:
    """A table with a row per editor."""
    rows = (
        (
            f"[`{editor.name}`](#{editor.name})",
            editor.title,
            "weights" if editor.in_weights else "something beside the weights",
            "yes" if editor.augmentable else "no",
        )
        for editor in CATALOGUE.values()
    )
    return table(("name", "editor", "changes", "can be augmented with paraphrases"), rows)


def section(editor: EditorDescription) -> str:
    """One editor: what it does, what it can be set to, and what is set by default for some models."""
    lines = [f"## {editor.name}", f"{editor.title}. {editor.summary}"]
    if editor.paper:
        lines[-1] += f" Source: <{editor.paper}>."
    if editor.preparation is not None:
        lines.append(f"Needs a {editor.preparation}, which is made in a step of its own and reused.")
    lines.append(hyperparameter_table(editor))
    lines += [
        f"Defaults for models of the family `{family}`: {settings(defaults)}."
        for family, defaults in editor.family_defaults.items()
        if defaults
    ]
    lines += [
        f"Defaults for `{model}`: {settings(defaults)}."
        for model, defaults in editor.model_defaults.items()
        if defaults
    ]
    return "\n\n".join(lines)


def hyperparameter_table(editor: EditorDescription) -> str:
    """What an editor can be set to."""
    properties = editor.hyperparameters.model_json_schema(by_alias=False)["properties"]
    rows = (
        (
            f"`{name}`",
            f"`{json.dumps(schema.get('default'))}`",
            allowed(schema),
            schema["description"],
            schema["source"],
        )
        for name, schema in properties.items()
    )
    return table(("hyperparameter", "default", "allowed", "meaning", "source"), rows)


def allowed(schema: Mapping[str, Any]) -> str:
    """Which values a JSON Schema lets through, in few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed(choice) for choice in schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        limits = ", ".join(bounds(schema))
        return f"{kind} {limits}" if limits else str(kind)
    return {"null": "`null`", "array": "list", "boolean": "`true`, `false`", "string": "text"}[str(kind)]


def bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    """The limits of a number."""
    for name, sign in SIGNS.items():
        if name in schema:
            number = schema[name]
            yield f"{sign} {number:,}" if number == int(number) else f"{sign} {number}"


def settings(defaults: Mapping[str, Any]) -> str:
    """`layers` = [2], `lr` = 0.01"""
    return ", ".join(f"`{name}` = {json.dumps(value)}" for name, value in defaults.items())


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
