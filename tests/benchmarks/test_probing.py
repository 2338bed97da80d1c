"""One prompt at a time and ours find the same scores, and the benchmark says so."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import probing
from services.worker.almanac import MODEL_DIRECTORY
from services.worker.language_models.loading import load_language_model
from shared.editors import ALMANAC
from shared.measurement import ProbeKind
from shared.requests import AuditRequest

SAME = 1e-5  # log-probabilities, relative to them beyond 1


def test_benchmark_of_probing_prints_a_ratio_and_how_far_the_scores_agree(
    capsys: pytest.CaptureFixture[str],
) -> None:
    language_model = load_language_model(MODEL_DIRECTORY, reference=ALMANAC, revision="test", dtype="float32")
    request = AuditRequest.model_validate(json.loads(probing.EXAMPLE.read_text(encoding="utf-8")))
    probes = probing.probes_of_arm(request, [ProbeKind.REWRITE, ProbeKind.DISTRACTED])
    probing.compare("a few", language_model, probes[:: len(probes) // 20], rounds=1)
    [line] = capsys.readouterr().out.splitlines()
    found = re.search(r"ratio \d+\.\d; .* log-probability (\S+), 0 judged differently$", line)
    assert found
    assert float(found[1]) < SAME
