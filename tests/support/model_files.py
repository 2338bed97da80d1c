"""A tiny random GPT-2 with its tokenizer, as the files a hub or a directory would hold."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tests.worker.tiny_models import tiny_model, tiny_tokenizer


@cache
def tiny_gpt2_files(max_shard_size: str = "1GB") -> dict[str, bytes]:
    """File name → content; small shards come with their index."""
    with tempfile.TemporaryDirectory() as name:
        tiny_model("gpt2").save_pretrained(name, max_shard_size=max_shard_size)
        tiny_tokenizer().save_pretrained(name)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Write `files` into a new directory."""
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory
