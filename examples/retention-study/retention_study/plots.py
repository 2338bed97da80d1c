"""The plots of the study as SVG files that stand alone, from results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retention_study import PLOTS
from retention_study.findings import Findings
from services.worker.analysis.cost_plot import cost_figure
from services.worker.analysis.plots import forest_figure
from services.worker.analysis.survival_plot import survival_figure

# The colours of the report's page, on light and on dark ground.
STYLE = """<style>
svg {
  --paper: #ffffff; --ink: #1b2230; --faint: #66708a;
  --edits: #0069a8; --controls: #b85c00; --gate: #a02468;
  background: var(--paper); font-family: sans-serif;
}
@media (prefers-color-scheme: dark) {
  svg {
    --paper: #171b24; --ink: #e7eaf1; --faint: #9aa4bb;
    --edits: #5fb8f0; --controls: #f0a94e; --gate: #ef83bb;
  }
}
</style>"""


def figures(findings: Findings) -> Iterator[tuple[str, str]]:
    """Every figure that can be made of what is there: its name, and an <svg> element."""
    if findings.unmitigated:
        yield "excess-decay", forest_figure(findings.unmitigated, "decay")
    for found in findings.continued:
        if found.survival is not None and found.survival.edits.points:
            name = f"survival-{found.configuration.editor}"
            yield name, survival_figure(found.survival, str(found.configuration), name)
    for report in (*findings.freezing, *findings.paraphrases):
        if report.mitigations:
            yield report.part, cost_figure(report.mitigations, report.part)


def standing_alone(svg: str) -> str:
    """An <svg> element with its colours, as a file."""
    opening, rest = svg.split(">", 1)
    return f"{opening}>\n{STYLE}{rest.rstrip()}\n"


def draw(findings: Findings, folder: Path = PLOTS) -> list[Path]:
    """Write every figure, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, svg in figures(findings):
        path = folder / f"{name}.svg"
        path.write_text(standing_alone(svg), encoding="utf-8")
        written.append(path)
    return written
