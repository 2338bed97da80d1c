"""Tunings that stopped early at different steps are named where they are compared."""

from __future__ import annotations

from dataclasses import replace

from services.worker.analysis.endings import ending_warnings
from services.worker.analysis.inputs import Trial
from services.worker.analysis.page import render_page
from services.worker.analysis.report import build_report
from shared.requests import Configuration
from tests.worker.analysis.synthetic import findings, trial
from tests.worker.analysis.test_gate import kept


def ended(paraphrases: int, steps: int | None, base_steps: int | None, *, seed: int = 0) -> Trial:
    configuration = Configuration(editor="memit", paraphrases=paraphrases, recipe="wiki", freeze="none")
    found = trial(kept(30, 50), kept(20, 20), configuration=configuration, seed=seed)
    return replace(found, steps=steps, base_steps=base_steps)


def test_arms_that_ended_at_different_steps_are_warned_of_by_seed() -> None:
    (warning,) = ending_warnings(findings([ended(0, 50, 70), ended(0, 60, 60, seed=1)]))
    assert "edited→tuned and base→tuned (seed 0: 50 and 70)" in warning


def test_mitigations_that_ended_at_different_steps_are_warned_of_by_seed() -> None:
    plain = [ended(0, 60, 60), ended(0, 50, 50, seed=1)]
    (warning,) = ending_warnings(findings([*plain, ended(3, 60, 60), ended(3, 80, 80, seed=1)]))
    assert warning.startswith(f"{ended(3, 0, 0).configuration} against {ended(0, 0, 0).configuration}: ")
    assert "(seed 1: 80 and 50)" in warning


def test_alike_or_unrecorded_ends_are_not_warned_of() -> None:
    assert ending_warnings(findings([ended(0, 60, 60), ended(3, 60, 60)])) == []
    assert ending_warnings(findings([ended(0, None, 60), ended(3, 60, None)])) == []


def test_the_report_has_the_steps_of_both_arms_and_the_warning() -> None:
    report = build_report(findings([ended(0, 50, 70)]))
    (found,) = report.configurations[0].trials
    assert (found.steps, found.base_steps) == (50, 70)
    assert any("seed 0: 50 and 70" in warning for warning in report.warnings)
    assert '<td class="number">50, 70</td>' in render_page(report)
