from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from services.cli.result_tables import DETAILED_AT_MOST, print_report
from shared.gate import StressConfiguration
from shared.measurement import FactKind, Mode
from shared.recipes import Freeze
from shared.reports import (
    Editing,
    EditNotTaken,
    FurtherEditsMade,
    LogRank,
    Report,
    StressReport,
    Survival,
    SurvivalCurve,
)
from shared.reports.parts import PER_PAIR
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


def test_edits_that_did_not_take_are_listed_by_index_the_first_with_the_answer_instead() -> None:
    missed = [
        EditNotTaken(index=index, prompt=f"Prompt {index}", target_new="Rome", answer="Paris")
        for index in (4, 7, 9, 11, 30)
    ]
    editing = Editing(editor="memit", paraphrases=1, edits=50, not_taken=missed)
    other = Editing(editor="ft_l", paraphrases=0, edits=50, not_taken=[])
    lines = printed(reports.report().model_copy(update={"editing": [editing, other]})).splitlines()

    start = lines.index("5 of 50 edits by memit · k=1 did not take:")
    assert lines[start + 1 : start + 5] == [
        "  4  Prompt 4 Paris  not: Rome",
        "  7  Prompt 7 Paris  not: Rome",
        "  9  Prompt 9 Paris  not: Rome",
        "  and 11, 30",
    ]
    assert not any("ft_l · k=0 did not take" in line for line in lines)


def test_excess_decay_is_shown_with_its_interval() -> None:
    assert "excess decay of edits: +25 [15, 35] points" in printed(reports.report())


def test_reversion_is_shown_as_a_count_of_lost_edits() -> None:
    assert "5 of 14 lost edits went back to the old answer" in printed(reports.report())


def test_every_rule_of_the_gate_is_shown_with_its_reason() -> None:
    assert "fail: retention ≥ 80 %  upper bound 78 %" in printed(reports.report())


def test_mitigation_is_shown_with_gain_and_costs() -> None:
    text = printed(reports.report())

    assert "1*  memit · k=3 · english · freeze=none  +12 [2, 22]  +0.034  +3 [-7, 13]" in text


def test_losses_of_learned_preferences_are_per_pair() -> None:
    report = reports.report()
    (mitigation,) = report.mitigations
    cost = mitigation.task_loss_cost.model_copy(update={"unit": PER_PAIR})
    parts = [
        part.model_copy(
            update={"trials": [t.model_copy(update={"held_out_loss_unit": PER_PAIR}) for t in part.trials]}
        )
        for part in report.configurations
    ]
    changed = {
        "mitigations": [mitigation.model_copy(update={"task_loss_cost": cost})],
        "configurations": parts,
    }
    shown = " ".join(printed(report.model_copy(update=changed)).split())
    assert "cost in nats per pair and points of locality" in shown
    assert "nats per token" not in shown


def test_log_rank_test_is_shown_with_how_fast_edits_are_lost() -> None:
    nothing = {"facts": 0, "trials": 0, "lost": 0, "median_step": None, "points": []}
    survival = Survival(
        mode=Mode.EXACT,
        how="",
        edits=SurvivalCurve(fact_kind=FactKind.EDIT, **nothing),
        controls=SurvivalCurve(fact_kind=FactKind.CONTROL, **nothing),
        log_rank=LogRank(
            chi_squared=12.3,
            p_value=0.0004,
            hazard_ratio=3.5,
            hazard_ratio_interval=None,
            method="log-rank",
        ),
    )
    report = reports.report()
    (part,) = report.configurations
    changed = report.model_copy(update={"configurations": [part.model_copy(update={"survival": survival})]})
    text = printed(changed)
    assert "log-rank test of edits against controls: p < 0.001; edits are lost 3.50 times as fast" in text


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


def stress_report(stressor: str) -> StressReport:
    of_tuning = reports.configuration_report()
    return StressReport(
        configuration=StressConfiguration(editor="memit", paraphrases=0, stressor=stressor),
        description="10 conflicting edits more by the same editor",
        verdict=Verdict.PASS,
        interaction=[],
        further_edits=FurtherEditsMade(made=10, taken=9),
        superseded=reports.share("superseded", 7, 8),
        **{
            name: getattr(of_tuning, name)
            for name in (
                *("decisions", "trials", "shares", "retention_edits", "retention_controls"),
                *("excess_decay", "excess_decay_matched", "reversion"),
            )
        },
    )


def test_stressed_models_are_listed_with_what_further_edits_did() -> None:
    stressed = stress_report("ten-more")
    text = printed(reports.report().model_copy(update={"stress": [stressed]}), width=140)
    name = "memit · k=0 · ten-more (9 of 10 took, 7 of 8 overwritten are gone)"
    assert row(text, name)[1:] == ["69 % [59, 79]", "94 % [84, 100]", "+25 [15, 35]", "PASS"]


def test_brackets_of_a_name_are_printed_as_they_are() -> None:
    queries_and_keys = Freeze("parameters:*[qk]_proj*")
    many = reports.report(DETAILED_AT_MOST + 1)
    configuration = reports.configuration(freeze=queries_and_keys)
    update = {"configuration": configuration}
    text = printed(
        many.model_copy(
            update={
                "configurations": [part.model_copy(update=update) for part in many.configurations],
                "mitigations": [many.mitigations[0].model_copy(update=update)],
                "stress": [stress_report("q[b]")],
            }
        ),
        width=200,
    )

    assert text.count(str(queries_and_keys)) == DETAILED_AT_MOST + 2
    assert "memit · k=0 · q[b]" in text
