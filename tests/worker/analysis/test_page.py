"""The page stands alone, is safe to open, and shows what the report says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.recipes import Freeze
from shared.reports import Report, StepProblem
from shared.requests import Configuration
from shared.states import StepStatus, Verdict
from tests.worker.analysis.synthetic import failed_trial, findings, synthetic_audit, trial
from tests.worker.analysis.test_gate import kept

HOSTILE = "$x^2$<script>alert('x')</script>\"><img src=https://evil.example/x onerror=alert(1)> {{ 7*7 }}"


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def names(self) -> set[str]:
        return {tag for tag, _ in self.found}


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(synthetic_audit())


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_page(report)


def hostile_report() -> Report:
    configuration = Configuration(editor=HOSTILE, paraphrases=0, recipe=HOSTILE, freeze=Freeze.NONE)
    other = configuration.model_copy(update={"paraphrases": 3})
    trials = [
        trial(kept(30, 60), kept(60, 60), configuration=configuration),
        trial(kept(40, 60), kept(60, 60), configuration=other),
        failed_trial(1, configuration, HOSTILE),
    ]
    problem = StepProblem(step_id=HOSTILE, title=HOSTILE, status=StepStatus.FAILED, cause=None, error=HOSTILE)
    changes = {"model": HOSTILE, "platform": HOSTILE, "data_hashes": {HOSTILE: HOSTILE}}
    return build_report(findings(trials, problems=[problem], warnings=[HOSTILE], changes=changes))


def test_nothing_is_loaded_and_nothing_runs(page: str) -> None:
    elements = Elements(page)
    assert elements.names().isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), tag
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    page = render_page(hostile_report())
    elements = Elements(page)
    assert elements.names().isdisjoint({"script", "img"})
    assert "alert(&#39;x&#39;)" in page
    assert "{{ 7*7 }}" in page


def test_hostile_names_in_figures_are_text() -> None:
    page = render_page(hostile_report())
    labels = "".join(re.findall(r"<text[^>]*>(.*?)</text>", page, flags=re.DOTALL))
    assert "$x^2$&lt;script&gt;" in labels


def test_the_same_report_gives_the_same_page(report: Report, page: str) -> None:
    assert render_page(report) == page


def test_ids_are_unique(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_references_inside_figures_lead_somewhere(page: str) -> None:
    elements = Elements(page).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    wanted = {(attributes.get("xlink:href") or "")[1:] for tag, attributes in elements if tag == "use"}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert wanted
    assert wanted <= ids


def test_every_figure_says_what_it_shows(page: str) -> None:
    figures = [attributes for tag, attributes in Elements(page).found if tag == "svg"]
    assert len(figures) == 10  # a forest, the costs, and a curve for each of 8 configurations
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)


def test_figures_take_their_colours_and_letters_from_the_page(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b(?=;|\")", figures) == []
    assert "<text" in figures


@pytest.mark.parametrize(
    ("edits", "verdict"), [(60, Verdict.PASS), (10, Verdict.FAIL), (50, Verdict.INCONCLUSIVE)]
)
def test_the_banner_states_verdict_and_reason(edits: int, verdict: Verdict) -> None:
    report = build_report(findings([trial(kept(edits, 60), kept(60, 60))]))
    banner = re.search(r'<section class="verdict (\w+)".*?</section>', render_page(report), flags=re.DOTALL)
    assert banner is not None
    assert banner[1] == report.verdict == verdict
    assert report.why in banner[0]


def test_decisions_problems_and_warnings_are_shown(report: Report, page: str) -> None:
    assert report.configurations[0].decisions[0].why in page
    assert "CUDA out of memory" in page
    assert "Only 60 edits were probed." in page


def test_retention_is_shown_with_its_interval(report: Report, page: str) -> None:
    metric = next(
        part for part in report.configurations[0].retention_edits if part.mode is report.headline_mode
    )
    assert metric.value is not None
    assert metric.interval is not None
    low, high = 100 * metric.interval.low, 100 * metric.interval.high
    assert f"<b>{100 * metric.value:.1f} %</b><small>{low:.1f}–{high:.1f} %</small>" in page


def test_an_audit_in_which_nothing_ran_still_has_a_page() -> None:
    page = render_page(build_report(findings([failed_trial(0), failed_trial(1)])))
    assert "2 of 2 planned trials did not succeed." in page
