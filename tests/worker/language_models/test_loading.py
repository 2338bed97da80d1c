import json
from pathlib import Path

import pytest
import torch

from services.worker.language_models.loading import (
    MOST_TOKENS,
    ModelNotLoadable,
    load_language_model,
    prepare_language_model,
)
from tests.worker.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny_model("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_loaded_model_is_frozen_and_in_evaluation_mode(directory: Path) -> None:
    loaded = load_language_model(directory, reference="local:tiny", revision="r1")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_dtype_is_taken_from_the_request(directory: Path) -> None:
    loaded = load_language_model(directory, reference="local:tiny", revision="r1", dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16


def test_missing_pad_token_falls_back_to_the_end_of_text(directory: Path) -> None:
    loaded = load_language_model(directory, reference="local:tiny", revision="r1")
    assert loaded.pad_token_id == loaded.tokenizer.eos_token_id


def test_pickled_weights_are_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({}, directory / "pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_language_model(directory, reference="local:tiny", revision="r1")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("auto_map", {"AutoModelForCausalLM": "evil.Model"}, "code of its own"),
     ("quantization_config", {"bits": 4}, "quantised")],
)  # fmt: skip
def test_configurations_that_need_code_or_quantised_weights_are_refused(
    directory: Path, key: str, value: object, reason: str
) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelNotLoadable, match=reason):
        load_language_model(directory, reference="local:tiny", revision="r1")


def test_adapters_are_refused(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotLoadable, match="adapter"):
        load_language_model(directory, reference="local:tiny", revision="r1")


def test_a_directory_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable, match=r"no config\.json"):
        load_language_model(tmp_path, reference="local:tiny", revision="r1")


def test_damaged_weights_are_refused(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelNotLoadable):
        load_language_model(directory, reference="local:tiny", revision="r1")


def test_token_budget_halves_when_every_value_takes_twice_the_bytes() -> None:
    language_model = prepare_language_model(tiny_model("gpt2"), tiny_tokenizer(), "tiny:gpt2", "r1")
    language_model.model.config.n_embd = 2**15  # wide enough for the activations to matter
    single = language_model.token_budget
    language_model.model.to(torch.bfloat16)
    assert language_model.token_budget == pytest.approx(2 * single, abs=1)


def test_token_budget_of_a_small_model_is_the_largest() -> None:
    small = prepare_language_model(tiny_model("gpt2"), tiny_tokenizer(), "tiny:gpt2", "r1")
    assert small.token_budget == MOST_TOKENS
