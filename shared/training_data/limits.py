"""How much one source of training data may hold."""

from __future__ import annotations

MAX_FILE_BYTES = 64 * 2**20  # as it is read and, but for Parquet, unpacked
MAX_FILE_RECORDS = 1_000_000
