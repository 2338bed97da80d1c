from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from services.cli.result_tables import DETAILED_AT_MOST, print_report
from shared.reports import Report
from shared.states import Verdict
from tests.cli import reports

WIDE, NARROW = 100, 48
ESCAPE = "\x1b["


def printed(report: Report, width: int = WIDE, *, terminal: bool = False) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=terminal, highlight=False, _environ={})
    print_report(console, report)
    return output.getvalue()


def row(text: str, name: str) -> list[str]:
    """The cells of the last row called `name`, which columns part by two blanks or more."""
    line = [line for line in text.splitlines() if line.strip().startswith(f"{name} ")][-1]
    return re.split(r" {2,}", line.strip())


def test_wide_terminal_shows_the_share_right_at_every_arm_side_by_side() -> None:
    text = printed(reports.report())

    assert row(text, "edits")[1:] == ["0 %", "2 %", "90 %", "62 %", "69 % [59, 79]", "31/45"]
    assert row(text, "controls")[1:] == ["100 %", "96 %", "94 %", "88 %", "94 % [84, 100]", "44/47"]


def test_narrow_terminal_shows_the_arms_one_below_the_other() -> None:
    text = printed(reports.report(), NARROW)

    assert row(text, "edited→tuned") == ["edited→tuned", "62 %", "88 %"]
    assert row(text, "kept [95 %]") == ["kept [95 %]", "69 % [59, 79]", "94 % [84, 100]"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    assert max(len(line) for line in printed(reports.report(), width).splitlines()) <= width


def test_excess_decay_is_shown_with_its_interval() -> None:
    assert "excess decay of edits: +25 [15, 35] points" in printed(reports.report())


def test_reversion_is_shown_as_a_count_of_lost_edits() -> None:
    assert "5 of 14 lost edits went back to the old answer" in printed(reports.report())


def test_every_rule_of_the_gate_is_shown_with_its_reason() -> None:
    assert "fail: retention ≥ 80 %  upper bound 78 %" in printed(reports.report())


def test_mitigation_is_shown_with_gain_and_costs() -> None:
    text = printed(reports.report())

    assert "1  memit · k=3 · english · freeze=none  +12 [2, 22]  +0.034       2 %" in text


def test_what_could_not_be_measured_is_named() -> None:
    assert "not measured: edit ft_l (failed): loss is not finite" in printed(reports.report())


def test_verdict_comes_last_with_its_reason() -> None:
    end = printed(reports.report()).splitlines()[-3:]

    assert " FAIL " in end[0]
    assert reports.report().why in end[1]


@pytest.mark.parametrize(
    ("verdict", "colour"), [(Verdict.PASS, "32"), (Verdict.FAIL, "31"), (Verdict.INCONCLUSIVE, "33")]
)
def test_verdict_is_coloured_on_a_terminal(verdict: Verdict, colour: str) -> None:
    assert f"\x1b[1;{colour}m{verdict.upper()}" in printed(reports.report(verdict=verdict), terminal=True)


def test_nothing_is_coloured_elsewhere() -> None:
    assert ESCAPE not in printed(reports.report())


def test_many_configurations_get_a_line_each() -> None:
    text = printed(reports.report(DETAILED_AT_MOST + 1))

    assert text.count("69 % [59, 79]") == DETAILED_AT_MOST + 1
    assert "edited→tuned" not in text


def test_share_over_nothing_is_shown_as_missing() -> None:
    report = reports.report()
    empty = report.configurations[0].model_copy(
        update={"retention_edits": [reports.share("retention", 0, 0)]}
    )

    text = printed(report.model_copy(update={"configurations": [empty]}))

    assert row(text, "edits")[-2:] == ["—", "—"]


def test_configuration_that_no_rule_speaks_of_has_no_verdict() -> None:
    report = reports.report()
    unjudged = report.configurations[0].model_copy(update={"verdict": None, "decisions": []})

    text = printed(report.model_copy(update={"configurations": [unjudged]}))

    assert text.count("FAIL") == 1  # the audit's own
