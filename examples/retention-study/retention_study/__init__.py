"""The retention study of Wen & Zhang (arXiv 2507.14198) rerun on the built-in model; see README.md."""

from pathlib import Path

HOME = Path(__file__).parents[1]
AUDITS, RESULTS, PLOTS = HOME / "audits", HOME / "results", HOME / "plots"
TABLES = HOME / "tables.md"
