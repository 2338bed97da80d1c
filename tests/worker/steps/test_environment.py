"""A step says what it ran under, in the words of the report."""

from __future__ import annotations

import json

import torch

from services.worker.steps.environment import UNRECORDED, differences, environment
from shared.reports import Provenance
from tests.worker.editing.cases import tiny_language_model


def test_environment_is_json_with_fields_of_the_provenance() -> None:
    recorded = environment(tiny_language_model("gpt2"))
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded.keys() == UNRECORDED.keys() < Provenance.model_fields.keys()
    assert (recorded["device"], recorded["dtype"]) == ("cpu", "float32")
    assert recorded["threads"] == torch.get_num_threads()
    assert recorded["packages"]["torch"] == torch.__version__


def test_like_environments_give_no_warning() -> None:
    recorded = environment(tiny_language_model("gpt2"))
    assert differences([recorded, dict(recorded)]) == []
    assert differences([]) == []


def test_warning_names_everything_that_differs_and_nothing_else() -> None:
    recorded = environment(tiny_language_model("gpt2"))
    packages = {**recorded["packages"], "torch": "1.0"}
    other = {**recorded, "device": "NVIDIA H200", "packages": packages, "holdfast_version": "9"}
    (warning,) = differences([recorded, other, recorded])
    assert "device (NVIDIA H200, cpu)" in warning
    assert f"torch (1.0, {torch.__version__})" in warning
    assert "holdfast (" in warning
    assert warning.count("(") == 3
