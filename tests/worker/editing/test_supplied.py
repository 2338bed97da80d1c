"""What is found of a model that was edited elsewhere, and which models are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.worker.editing.editor import EditingRun, Materials
from services.worker.editing.supplied import (
    Changes,
    Supplied,
    find_changes,
    modification_to,
    supplied_modification,
)
from services.worker.editing.supplied_weights import SuppliedModelUnusable
from services.worker.language_models.loading import LanguageModel, prepare_language_model
from services.worker.language_models.progress import untold
from services.worker.language_models.weight_delta import Dense, LowRank, WeightDelta
from shared.editors import SuppliedHyperparameters
from tests.worker.editing.cases import tiny_language_model
from tests.worker.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

Tensors = dict[str, Tensor]
WEIGHT = "transformer.h.1.mlp.c_proj.weight"
EMBEDDING = "transformer.wte.weight"


def saved(language_model: LanguageModel, folder: Path) -> Path:
    """The model in a directory."""
    language_model.model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """The directory, its weights changed in the file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def base() -> LanguageModel:
    return tiny_language_model("gpt2")


@pytest.fixture
def checkpoint(base: LanguageModel, tmp_path: Path) -> Path:
    return saved(base, tmp_path / "edited")


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_compared_with_what_it_is_saved_as(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    language_model = prepare_language_model(model, tiny_tokenizer(), f"tiny:{family}", "r1")
    with torch.no_grad():
        parameter = model.get_parameter(f"{language_model.anatomy.mlp_down_projections[2]}.weight")
        original = parameter.clone()
        parameter.mul_(1.5)
        folder = saved(language_model, tmp_path / "edited")
        parameter.copy_(original)
    assert find_changes(language_model, folder) == Changes(layers=(2,), elsewhere=())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored_as", [torch.float32, torch.bfloat16, torch.float16])
def test_delta_gives_the_supplied_weights_bit_for_bit(
    dtype: torch.dtype, stored_as: torch.dtype, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    folder = saved(tiny_language_model("gpt2", stored_as), tmp_path / "edited")
    low_rank = torch.randn(128, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    rewritten(folder, lambda tensors: tensors[WEIGHT].add_(low_rank.to(stored_as)))
    supplied = tiny_language_model("gpt2", stored_as).model
    with torch.no_grad():
        supplied.get_parameter(WEIGHT).add_(low_rank.to(stored_as))

    base = tiny_language_model("gpt2", dtype)
    delta, changes = modification_to(base, folder, untold)
    assert changes.layers == (1,)
    with delta.applied(base) as edited:
        for name, parameter in edited.model.named_parameters():
            assert torch.equal(parameter, supplied.get_parameter(name).to(dtype)), name


def test_weights_that_were_only_stored_coarser_are_no_edits(base: LanguageModel, tmp_path: Path) -> None:
    folder = saved(tiny_language_model("gpt2", torch.float16), tmp_path / "edited")
    rewritten(folder, lambda tensors: tensors[WEIGHT].mul_(2))
    changes = find_changes(base, folder)
    assert changes.layers == (1,)
    assert WEIGHT not in changes.rounded
    assert EMBEDDING in changes.rounded
    assert "stored with fewer digits" in changes.warnings()[0]


def test_few_changed_rows_are_stored_as_factors(base: LanguageModel, checkpoint: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[EMBEDDING][[3, 77]] += 0.1
        tensors[WEIGHT] += 0.1

    delta, changes = modification_to(base, rewritten(checkpoint, change), untold)
    assert isinstance(delta.parameters[EMBEDDING], LowRank)
    assert delta.parameters[EMBEDDING].left.shape == (160, 2)
    assert isinstance(delta.parameters[WEIGHT], Dense)
    assert changes.elsewhere == (EMBEDDING,)
    assert changes.warnings() == (f"the supplied model is edited outside its blocks too: {EMBEDDING}",)
    supplied = load_file(checkpoint / "model.safetensors")
    with delta.applied(base) as edited:
        assert torch.equal(edited.model.get_parameter(EMBEDDING), supplied[EMBEDDING])


def test_names_without_the_prefix_and_old_buffers_are_understood(
    base: LanguageModel, checkpoint: Path
) -> None:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.1.mlp.c_proj.weight"] *= 2
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    assert find_changes(base, rewritten(checkpoint, change)) == Changes(layers=(1,), elsewhere=())


def test_shards_are_read(base: LanguageModel, tmp_path: Path) -> None:
    with torch.no_grad():
        base.model.get_parameter(WEIGHT).mul_(2)
    base.tokenizer.save_pretrained(tmp_path)
    base.model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert find_changes(tiny_language_model("gpt2"), tmp_path).layers == (1,)


def grow(tensors: Tensors) -> None:
    tensors[EMBEDDING] = torch.zeros(161, 32)


REFUSED: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "another vocabulary": (grow, r"its transformer.wte.weight is \(161, 32\), the base model's \(160, 32\)"),
    "a missing weight": (lambda tensors: tensors.pop(WEIGHT), f"it has no {WEIGHT}"),
    "a weight too many": (
        lambda tensors: tensors.update({"transformer.h.1.adapter": torch.ones(2)}),
        "it has transformer.h.1.adapter, which the base model has not",
    ),
    "a weight twice": (
        lambda tensors: tensors.update({"wte.weight": torch.ones(160, 32)}),
        f"it has {EMBEDDING} twice",
    ),
    "a head of its own": (
        lambda tensors: tensors.update({"lm_head.weight": torch.ones(160, 32)}),
        f"its lm_head.weight is not {EMBEDDING}, to which the base model ties it",
    ),
    "quantised weights": (
        lambda tensors: tensors.update({WEIGHT: torch.ones(128, 32, dtype=torch.int8)}),
        rf"its {WEIGHT} is quantised \(torch.int8\)",
    ),
    "not a number": (
        lambda tensors: tensors[WEIGHT].fill_(torch.nan),
        f"its {WEIGHT} has numbers that are not finite",
    ),
    "no edit": (lambda tensors: None, "nothing was edited"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_model_that_is_not_the_base_with_other_weights_is_refused(
    case: str, base: LanguageModel, checkpoint: Path
) -> None:
    change, reason = REFUSED[case]
    with pytest.raises(SuppliedModelUnusable, match=reason):
        find_changes(base, rewritten(checkpoint, change))


def test_another_architecture_is_refused(base: LanguageModel, tmp_path: Path) -> None:
    other = saved(tiny_language_model("llama"), tmp_path / "edited")
    with pytest.raises(SuppliedModelUnusable, match="it is a llama, the base model is a gpt2"):
        find_changes(base, other)


def test_damaged_weights_are_refused(base: LanguageModel, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SuppliedModelUnusable, match="its weights cannot be read"):
        find_changes(base, checkpoint)


def test_other_settings_are_told(base: LanguageModel, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config.update(activation_function="relu", use_cache=False, transformers_version="4.0.0")
    (checkpoint / "config.json").write_text(json.dumps(config))
    changes = find_changes(base, rewritten(checkpoint, lambda tensors: tensors[WEIGHT].mul_(2)))
    assert changes.settings == ("activation_function",)
    assert "differs in activation_function" in changes.warnings()[0]


def stored_delta(folder: Path, revision: str, shape: tuple[int, int] = (128, 32)) -> Path:
    folder.mkdir(exist_ok=True)
    WeightDelta({WEIGHT: Dense(torch.ones(shape))}, revision).save(folder / "delta.safetensors")
    return folder / "delta.safetensors"


def test_delta_is_taken_as_it_was_stored(base: LanguageModel, tmp_path: Path) -> None:
    outcome = Supplied().edit(
        base,
        [],
        SuppliedHyperparameters(delta="local:delta.safetensors"),
        Materials(supplied=stored_delta(tmp_path, base.revision)),
        EditingRun(),
    )
    assert outcome.edited_layers == (1,)
    assert isinstance(outcome.modification, WeightDelta)
    assert outcome.modification.parameters.keys() == {WEIGHT}


@pytest.mark.parametrize(
    ("revision", "shape", "reason"),
    [
        ("r0", (128, 32), "its delta was made for revision r0 of the base model, the audited one is r1"),
        ("r1", (32, 128), rf"{WEIGHT} is \(128, 32\), its delta is \(32, 128\)"),
    ],
)
def test_delta_of_another_model_is_refused(
    base: LanguageModel, tmp_path: Path, revision: str, shape: tuple[int, int], reason: str
) -> None:
    with pytest.raises(SuppliedModelUnusable, match=reason):
        supplied_modification(base, stored_delta(tmp_path, revision, shape))


def test_file_that_is_no_delta_is_refused(base: LanguageModel, checkpoint: Path) -> None:
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "delta.safetensors")
    with pytest.raises(SuppliedModelUnusable, match="is not a stored modification"):
        supplied_modification(base, checkpoint / "delta.safetensors")
