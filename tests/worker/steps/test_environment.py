"""A step says what it ran under, in the words of the report."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
import torch

from services.worker.steps import content_keys
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


@pytest.mark.parametrize("installed", ["0.48.1", "0.49.0"])
def test_package_of_quantised_tuning_counts_where_it_is_installed(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "bitsandbytes":
            return installed
        return metadata.version(name)

    monkeypatch.setattr(content_keys, "OPTIONAL_PACKAGES", ())
    without = content_keys.code_version.__wrapped__()
    assert "bitsandbytes" not in environment(tiny_language_model("gpt2"))["packages"]
    monkeypatch.undo()
    monkeypatch.setattr(content_keys, "version", version)
    assert environment(tiny_language_model("gpt2"))["packages"]["bitsandbytes"] == installed
    assert content_keys.code_version.__wrapped__() != without


def test_package_that_is_not_installed_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_keys, "OPTIONAL_PACKAGES", ("no-such-package-as-this",))
    assert content_keys.optional_packages() == {}
