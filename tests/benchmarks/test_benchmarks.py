"""The benchmarks run, on sizes that measure nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import bare, claims, tuning
from tests.support.parity_audit import PARITY_GPT2, parity_request


def test_benchmark_of_claims_prints_a_ratio_for_every_query_on_both_databases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims", "--finished", "20", "--waiting", "3"])
    monkeypatch.setattr(claims, "ROUNDS", 2)
    claims.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {"SQLite", "PostgreSQL"}
    assert all(re.search(r"\d\.\d\d$", line) for line in lines)


def test_bare_audit_comes_to_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(parity_request(editors=parity_request()["editors"][1:])))
    monkeypatch.setenv("HOLDFAST_MODEL_ROOTS", json.dumps([str(PARITY_GPT2)]))
    monkeypatch.setattr(sys, "argv", ["bare", str(request)])
    bare.main()
    assert capsys.readouterr().out.strip() in {"pass", "fail", "inconclusive"}


def test_benchmark_of_tuning_prints_a_ratio_to_each_other_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tuning", "--steps", "2", "--rounds", "1"])
    tuning.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"ours / Trainer on packed .* \d+\.\d\d, .* \d+\.\d\d; probes take -?[\d.]+% .*", last
    )
