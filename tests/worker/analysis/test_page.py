"""The page stands alone, is safe to open, and shows what the report says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.recipes import Freeze
from shared.reports import Editing, EditNotTaken, Report, StepProblem
from shared.requests import Configuration
from shared.states import StepStatus, Verdict
from tests.worker.analysis.synthetic import failed_trial, features, findings, synthetic_audit, traced, trial
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
    return build_report(
        findings(
            trials,
            problems=[problem],
            warnings=[HOSTILE],
            changes=changes,
            tracing=traced(HOSTILE),
            edit_features=features(text=HOSTILE),
        )
    )


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
    assert len(figures) == 19  # a forest, the costs, the tracing and two curves for each of 8 configurations
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


def test_tracing_is_shown_with_what_was_picked(report: Report, page: str) -> None:
    assert report.tracing == traced()
    told = " ".join(page.split())
    assert "48 of 60 facts" in told
    assert "from 91.4 % to 6.7 %" in told
    assert "Blocks picked for memit: 1, 2, 3." in told
    (figure,) = (
        attrs for tag, attrs in Elements(page).found if "restored" in (attrs.get("aria-label") or "")
    )
    assert "largest around block 2" in str(figure["aria-label"])


def test_key_statistics_are_shown_with_how_far_their_halves_differ(report: Report, page: str) -> None:
    assert report.key_statistics[0].split_half == {1: 0.034, 2: 0.0512}
    told = " ".join(page.split())
    assert "98,765 tokens of <code>file:wiki.txt</code>" in told
    assert "its halves differ by 3.4 % (block 1), 5.1 % (block 2)" in told


def test_without_tracing_the_page_does_not_speak_of_it() -> None:
    untraced = render_page(build_report(findings([trial(kept(30, 60), kept(60, 60))])))
    assert "Causal tracing" not in untraced


def test_an_audit_in_which_nothing_ran_still_has_a_page() -> None:
    page = render_page(build_report(findings([failed_trial(0), failed_trial(1)])))
    assert "2 of 2 planned trials did not succeed." in page


def not_taken(count: int, text: str = "Paris") -> Editing:
    missed = [
        EditNotTaken(index=2 * number, prompt=f"Prompt {number}", target_new="Rome", answer=text)
        for number in range(count)
    ]
    return Editing(editor="memit", paraphrases=1, edits=500, not_taken=missed)


def test_edits_that_did_not_take_are_shown_with_the_answer_instead(report: Report, page: str) -> None:
    assert "Edits that did not take" not in page
    shown = render_page(report.model_copy(update={"editing": [not_taken(102)]}))
    assert "<summary><span>memit · k=1</span> 102 of 500</summary>" in shown
    assert '<td class="number">198</td><td>Prompt 99</td><td>Rome</td><td>Paris</td>' in shown
    assert "And 200, 202." in shown


def test_provenance_names_the_source_of_paraphrases_and_what_was_added_to_second_moments(
    report: Report, page: str
) -> None:
    assert "Paraphrases of" not in page
    written = not_taken(0).model_copy(update={"paraphrase_source": "templates", "ridges": {2: 1.5e-6}})
    shown = render_page(report.model_copy(update={"editing": [written]}))
    assert "Paraphrases of memit · k=1</th><td><code>templates</code>" in shown
    assert "Ridges of memit · k=1</th><td>1.5e-06 (block 2)" in shown
    shown = render_page(report.model_copy(update={"editing": [not_taken(0)]}))
    assert "the edits’ own, the first 1 of each" in shown


def test_answer_of_a_model_cannot_add_elements_to_the_page(report: Report) -> None:
    shown = render_page(report.model_copy(update={"editing": [not_taken(1, HOSTILE)]}))
    assert {"script", "img"}.isdisjoint(Elements(shown).names())


def test_riskiest_edits_are_shown_with_prompt_answers_and_what_they_went_to(
    report: Report, page: str
) -> None:
    riskiest = report.riskiest[0]
    assert f"The home town of {riskiest.subject} is" in page
    assert f"<small>{riskiest.lost} of {riskiest.trials}</small>" in page
    told = " ".join(page.split())
    assert "the old answer: " in told
    assert "“Paris”" in told


def test_what_goes_with_loss_is_shown_with_its_interval(report: Report, page: str) -> None:
    found = next(part for part in report.lost_with if part.feature == "margin_before")
    assert found.auc > 0.9  # as the synthetic edits are drawn
    assert found.interval is not None
    assert "margin before tuning" in page
    assert f"{100 * found.interval.low:.1f}–{100 * found.interval.high:.1f} %" in page


def test_drift_is_shown_beside_what_chance_would_give(report: Report, page: str) -> None:
    matrix = report.configurations[0].drift[0]
    assert matrix.seeds == 3
    assert f"<small>{100 * 40 / 768:.1f} %</small>" in page
    assert '<td class="number">−0.120</td>' in page


def test_without_lost_edits_the_page_does_not_speak_of_them() -> None:
    whole = render_page(build_report(findings([trial(kept(60, 60), kept(60, 60))], edit_features=features())))
    assert "Which edits were lost" not in whole
