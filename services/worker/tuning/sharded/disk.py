"""What the disk fails of, in words that tell a full one from a fault of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise OSError, with its number, where safetensors puts one of the system's into words."""
    try:
        yield
    except SafetensorError as error:
        found = NUMBER.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error
