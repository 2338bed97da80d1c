"""Tables and plots of the retention study say what its results say: numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from retention_study.findings import Findings, read_findings
from retention_study.hypotheses import Decision, Hypothesis, comparisons, decide
from retention_study.instruments import difference
from retention_study.parts import CONTINUED, single_part
from retention_study.plots import draw
from retention_study.results import (
    KeptProbing,
    KeptReport,
    KeptSingle,
    SingleOutcome,
    formatted,
    is_there,
    kept_report,
    load,
    save,
)
from retention_study.singles import pooled
from retention_study.tables import page
from services.worker.analysis.intervals import Share, wilson_interval
from services.worker.analysis.report import build_report
from shared.measurement import Mode
from shared.recipes import Freeze
from shared.reports import Difference, Interval, Metric
from shared.requests import Configuration
from tests.worker.analysis.synthetic import PROVENANCE, findings, trial

REQUEST: dict[str, Any] = {"edits": [], "seeds": [0]}
CONTROLS = [True] * 10
PLAIN = Configuration(editor="memit", paraphrases=0, recipe=CONTINUED, freeze=Freeze.NONE)
FROZEN = PLAIN.model_copy(update={"freeze": Freeze.EDITED})


def batch(part: str = "freezing-memit") -> KeptReport:
    """4 of 5 edits took; of these tuning left 2, and 3 with the blocks frozen; of 10 controls 9."""
    before, controls = [True] * 4 + [False], (CONTROLS, [*CONTROLS[:9], False])
    trials = [
        trial((before, [True, False, True, False, False]), controls, configuration=PLAIN),
        trial((before, [True, True, True, False, False]), controls, configuration=FROZEN, loss_after=3.2),
    ]
    return kept_report(part, REQUEST, build_report(findings(trials, warnings=["beware"])))


def single(index: int, before: str, after: str, *, reverted: bool | None = None) -> KeptSingle:
    """An edit (the first character) and two controls, by one editor. before, after: exact answers."""
    probings = [
        KeptProbing(
            tuning_step=step,
            right={
                Mode.EXACT: right,
                Mode.FIRST_TOKEN: right,
                Mode.PREFERENCE: right,
                Mode.CONTAINS: right if step != 6 else "---",
            },
            margins=None if step else [1.5, 2.0, 2.5],
        )
        for step, right in ((0, before), (6, before), (40, after))
    ]
    outcomes = [
        SingleOutcome(
            editor=editor,
            probings=probings,
            reverted=reverted,
            paraphrases=(index, 4),
            locality=(1, 2),
            held_out_loss_before=3.5,
            held_out_loss_after=3.0,
        )
        for editor in ("rome", "ft")
    ]
    return KeptSingle(
        part=single_part(index),
        request_sha256="",
        warnings=[],
        problems=[],
        provenance=PROVENANCE,
        seed=index % 3,
        facts=[f"edit:{index:02}", "control:0", "control:1"],
        relations=["capital", "capital", "language"],
        outcomes=outcomes,
    )


def singles() -> list[KeptSingle]:
    """Of 4 edits 3 took, and 1 of these was kept; controls were right 8 times, and then 7."""
    return [
        single(0, "111", "111"),
        single(1, "111", "011", reverted=True),
        single(2, "111", "001", reverted=False),
        single(3, "011", "011"),
    ]


def cells(text: str, *starts: str) -> list[str]:
    """The cells of the one row that begins with these."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    [row] = [row for row in rows if tuple(row[: len(starts)]) == starts]
    return row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the results of a few parts."""
    for kept in (batch("objective-continued"), batch(), *singles()):
        save(kept, tmp_path)
    return tmp_path


def test_edits_one_by_one_are_pooled_and_controls_counted_once_per_model() -> None:
    found = pooled(singles(), "rome")
    [edits] = [part for part in found.retention_edits if part.mode is Mode.EXACT]
    [controls] = [part for part in found.retention_controls if part.mode is Mode.EXACT]
    assert (edits.numerator, edits.denominator) == (1, 3)
    assert (controls.numerator, controls.denominator) == (7, 8)
    [decay] = [part for part in found.excess_decay if part.mode is Mode.EXACT]
    assert decay.value == pytest.approx(7 / 8 - 1 / 3)
    assert (decay.edits, decay.controls) == (3, 2)  # facts, by which answers are resampled
    assert (found.reversion.numerator, found.reversion.denominator) == (1, 2)
    [locality] = found.locality
    assert (locality.numerator, locality.denominator) == (4, 8)


def test_a_mode_that_is_scored_at_the_ends_alone_is_pooled_there() -> None:
    [contained] = [part for part in pooled(singles(), "ft").retention_edits if part.mode is Mode.CONTAINS]
    assert (contained.numerator, contained.denominator) == (1, 3)


def test_tables_have_the_numbers_of_the_results(results: Path) -> None:
    text = page(read_findings(results))
    decay = text.partition("## Edits against control facts")[2].partition("\n## ")[0]
    kept = cells(decay, "rome", "continued, one by one")
    assert kept[2].startswith("33 % [")
    assert kept[2].endswith("] of 3")
    assert kept[3].startswith("88 % [")
    assert kept[4].startswith("+54 [")
    freezing = text.partition("## Freezing")[2].partition("\n## ")[0]
    assert cells(freezing, "memit", "0", "none")[3].endswith("of 4")
    frozen = cells(freezing, "memit", "0", "edited")
    assert frozen[3].startswith("75 % [")
    assert frozen[5].startswith("+25 [")
    assert frozen[6].startswith("+0.200")
    editing = text.partition("## Before tuning")[2].partition("\n## ")[0]
    held = cells(editing, "rome", "one by one")
    assert held[3].startswith("75 % [")  # 3 of 4 took
    assert held[4].startswith("38 % [")  # (0 + 1 + 2 + 3) of 16 other phrasings
    assert "- beware (2)" in text


def test_tables_can_be_made_of_nothing(tmp_path: Path) -> None:
    assert "Nothing measured yet." in page(read_findings(tmp_path))


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.01, 0.2, Decision.HOLDS),
        (0.0, 0.2, Decision.UNDECIDED),
        (-0.1, 0.2, Decision.UNDECIDED),
        (-0.2, -0.01, Decision.OPPOSITE),
    ],
)
def test_an_interval_decides(low: float, high: float, decision: Decision) -> None:
    interval = Interval(low=low, high=high, level=0.95, method="")
    found = Difference(
        name="", mode=Mode.EXACT, value=(low + high) / 2, interval=interval, edits=1, controls=1
    )
    assert decide(found) is decision


def test_without_an_interval_nothing_is_decided() -> None:
    found = Difference(name="", mode=Mode.EXACT, value=None, interval=None, edits=0, controls=0)
    assert decide(found) is Decision.UNMEASURED


def test_only_what_was_named_in_advance_is_primary(results: Path) -> None:
    found = read_findings(results)
    primary = [part for part in comparisons(found.unmitigated, found.mitigations) if part.primary]
    assert [(part.hypothesis, part.configuration.editor) for part in primary] == [
        (Hypothesis.DECAY, "memit"),
        (Hypothesis.DECAY, "rome"),
        (Hypothesis.FREEZING, "memit"),
    ]


def test_the_gap_of_two_instruments_has_newcombes_interval() -> None:
    # Newcombe (1998), table II: 56/70 − 48/80, method 10
    found = difference(share(56, 70), share(48, 80))
    assert found.value == pytest.approx(0.2)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def share(numerator: int, denominator: int) -> Metric:
    value = numerator / denominator
    return Metric(
        name="retention",
        mode=Mode.EXACT,
        numerator=numerator,
        denominator=denominator,
        value=value,
        interval=wilson_interval(Share(value, denominator)),
    )


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    for kept in (batch(), single(0, "111", "101")):
        path = save(kept, tmp_path)
        [found] = load(type(kept), [kept.part], tmp_path)
        assert formatted(found) == formatted(kept) == path.read_text()


def test_results_of_another_request_do_not_count(tmp_path: Path) -> None:
    kept = batch()
    assert not is_there(kept.part, REQUEST, tmp_path)
    save(kept, tmp_path)
    assert is_there(kept.part, REQUEST, tmp_path)
    assert not is_there(kept.part, {**REQUEST, "seeds": [1]}, tmp_path)


def test_plots_are_files_that_stand_alone_and_are_the_same_every_time(results: Path, tmp_path: Path) -> None:
    found: Findings = read_findings(results)
    first, second = ({path.name: path.read_bytes() for path in draw(found, tmp_path / name)} for name in "ab")
    assert first == second
    assert {"excess-decay.svg", "survival-rome.svg", "freezing-memit.svg"} <= set(first)
    for content in first.values():
        assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 (our own)
        assert b"--edits:" in content
