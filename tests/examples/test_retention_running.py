"""The retention study runs its audits through a real service and goes on where it was."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from retention_study.parts import single_part
from retention_study.results import KeptReport, KeptSingle, load
from retention_study.running import run
from retention_study.singles import pooled
from services.cli.signals import StopSignals
from shared.measurement import Mode
from tests.support.parity_audit import PARITY_GPT2, parity_request


def test_a_run_keeps_what_the_audits_found_and_runs_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_MODEL_ROOTS", json.dumps([str(PARITY_GPT2)]))
    monkeypatch.setenv("HOLDFAST_THREADS", "1")
    body = parity_request()
    body["editors"] = body["editors"][1:]
    body["recipes"][0]["freeze"] = ["none"]
    single = {**body, "edits": body["edits"][:1]}
    requests = {"batch": body, single_part(0): single}
    results, messages = tmp_path / "results", io.StringIO()

    def study() -> list[str]:
        with StopSignals() as signals:
            console = Console(file=messages, width=200)
            return run(requests, signals, console, data=tmp_path / "data", workers=2, results=results)

    assert study() == []
    [batch] = load(KeptReport, ["batch"], results)
    assert (batch.edits, len(batch.configurations)) == (4, 1)
    [one] = load(KeptSingle, [single_part(0)], results)
    before, *during = one.outcomes[0].probings
    assert [probing.tuning_step for probing in during] == [1, 4]
    assert one.facts[0] == "edit:00"
    assert len(one.facts) == len(one.relations) == len(before.margins or [])
    [edits] = [part for part in pooled([one], "ft_l").retention_edits if part.mode is Mode.EXACT]
    assert edits.denominator == int(before.right[Mode.EXACT][0])
    assert study() == []
    assert "2 of 2 audits are there already" in messages.getvalue()
