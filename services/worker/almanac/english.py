"""Plain English: prose from the standard library's docstrings, or from a text file."""

import ast
import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path

from shared.docstrings import ONE_PARSER, PRETRAINING_MODULES

MINIMUM_WORDS = 8
HELD_OUT_ONE_IN = 10


def prose_paragraphs(text: str) -> list[str]:
    """Paragraphs that read as sentences, with their whitespace collapsed."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        if ">>>" in block:
            continue
        paragraph = " ".join(block.split())
        letters = sum(character.isalpha() or character == " " for character in paragraph)
        if (
            len(paragraph.split()) >= MINIMUM_WORDS
            and letters >= 0.85 * len(paragraph)
            and paragraph.isascii()
            and paragraph[0].isupper()
            and paragraph[-1] == "."
        ):
            paragraphs.append(paragraph)
    return paragraphs


def docstrings(module: str) -> list[str]:
    """Docstrings of one module's source, in the order of a walk.

    None where this Python lacks the module or holds it frozen (`os`, `codecs` and a few more).
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    with ONE_PARSER:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [docstring for docstring in found if docstring]


@cache
def docstring_paragraphs() -> tuple[str, ...]:
    """Paragraphs of prose in the standard library's docstrings; parsing them takes seconds."""
    return tuple(
        paragraph
        for module in PRETRAINING_MODULES
        for docstring in docstrings(module)
        for paragraph in prose_paragraphs(docstring)
    )


def english_paragraphs(source: Path | None = None) -> list[str]:
    """Distinct paragraphs of a text file, or without one of the standard library's docstrings."""
    if source is None:
        return list(dict.fromkeys(docstring_paragraphs()))
    return list(dict.fromkeys(prose_paragraphs(source.read_text(encoding="utf-8"))))


def is_held_out(paragraph: str) -> bool:
    """Whether training must not see a paragraph (fixed by its hash)."""
    return hashlib.sha256(paragraph.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def training_english(source: Path | None = None) -> list[str]:
    return [paragraph for paragraph in english_paragraphs(source) if not is_held_out(paragraph)]


def held_out_english(source: Path | None = None) -> list[str]:
    return [paragraph for paragraph in english_paragraphs(source) if is_held_out(paragraph)]
