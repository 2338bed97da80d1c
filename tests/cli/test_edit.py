"""`holdfast edit` on the trained models of the parity fixtures, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from typer.testing import CliRunner, Result

from services.cli import main
from services.worker.editing.stored_modifications import load_modification
from services.worker.language_models.weight_delta import WeightDelta, changed_weights
from shared.editors import CATALOGUE
from tests.worker.editing.parity import FIXTURES, relative_error, relative_errors

KEY_TOLERANCE, TARGET_TOLERANCE, DELTA_TOLERANCE, LOSS_TOLERANCE = 1e-5, 1e-4, 1e-3, 1e-3
MEMIT_RUNS = [(model, run) for model in ("gpt2", "llama") for run in ("memit_1layer", "memit_3layer")]
GPT2 = FIXTURES / "gpt2"


def edit(*options: str | Path, out: Path, model: str | Path = GPT2 / "model", **named: Any) -> Result:
    """Run the command with options for the GPT-2 of the fixtures; `named` replaces some."""
    settings = {"model": model, "edits": GPT2 / "edits.json", "editor": "ft_l", "out": out, **named}
    arguments = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(
        main.app, ["edit", *map(str, (*arguments, *options))]
    )


def with_materials(model: str, run: str, out: Path, *options: str | Path) -> Result:
    """The reference run of the fixtures, as its files describe it."""
    folder = FIXTURES / model
    return edit(
        *options,
        model=folder / "model",
        edits=folder / "edits.json",
        editor="ft_l" if run == "ftl" else "memit",
        hyperparameters=folder / f"hparams_{run}.json",
        statistics=folder / "cov.safetensors",
        contexts=folder / "contexts.json",
        out=out,
    )


def loaded(directory: Path) -> PreTrainedModel:
    """A model as anybody would load it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    return model


@pytest.mark.parametrize(("model", "run"), MEMIT_RUNS)
def test_trace_of_memit_is_that_of_the_reference(model: str, run: str, tmp_path: Path) -> None:
    result = with_materials(model, run, tmp_path / "out", "--trace")
    assert result.exit_code == 0, result.stderr

    trace, expected = (
        load_file(tmp_path / "out" / "trace.safetensors"),
        load_file(FIXTURES / model / f"expected_{run}.safetensors"),
    )
    assert trace.keys() == expected.keys()
    for name, values in expected.items():
        if name.endswith(".delta"):
            assert relative_error(trace[name], values) < DELTA_TOLERANCE, name
        else:
            tolerance = KEY_TOLERANCE if name.endswith(".keys") else TARGET_TOLERANCE
            assert relative_errors(trace[name], values).max() < tolerance, name
    assert_losses(tmp_path / "out", model, run)


def assert_losses(out: Path, model: str, run: str) -> None:
    losses = json.loads((out / "trace.json").read_text())
    reference = json.loads((FIXTURES / model / "trace.json").read_text())[run]
    assert losses.keys() == reference.keys()
    for name, values in reference.items():
        assert losses[name] == pytest.approx(values, abs=LOSS_TOLERANCE), name


def test_trace_of_constrained_fine_tuning_is_that_of_the_reference(tmp_path: Path) -> None:
    result = with_materials("gpt2", "ftl", tmp_path / "out", "--trace")
    assert result.exit_code == 0, result.stderr

    trace = load_file(tmp_path / "out" / "trace.safetensors")
    expected = load_file(GPT2 / "expected_ftl.safetensors")
    assert trace.keys() == expected.keys()
    for name, values in expected.items():
        assert relative_error(trace[name], values) < DELTA_TOLERANCE, name
    assert_losses(tmp_path / "out", "gpt2", "ftl")
    assert "ft_l uses no contexts" in result.stdout


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_model_is_base_plus_delta_bit_for_bit(model: str, dtype: str, tmp_path: Path) -> None:
    options = ("--dtype", dtype, "--only", "1,3")
    assert with_materials(model, "memit_1layer", tmp_path / "whole", *options).exit_code == 0
    assert with_materials(model, "memit_1layer", tmp_path / "delta", *options, "--delta-only").exit_code == 0

    base, edited = loaded(FIXTURES / model / "model").to(getattr(torch, dtype)), loaded(tmp_path / "whole")
    assert edited.dtype == getattr(torch, dtype)
    delta = load_modification(tmp_path / "delta" / "modification.safetensors")
    assert isinstance(delta, WeightDelta)
    changed = dict(delta.parameters)
    assert len(changed) == 1
    for name, parameter in base.named_parameters():
        expected = changed_weights(parameter, changed[name]) if name in changed else parameter
        assert torch.equal(edited.get_parameter(name), expected), name
    assert [path.name for path in (tmp_path / "delta").iterdir()] == ["modification.safetensors"]


def test_saved_model_has_the_tokenizer_it_came_with_and_a_tied_head(tmp_path: Path) -> None:
    assert edit("--only", "0", out=tmp_path / "out").exit_code == 0

    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (GPT2 / "model" / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Home town").input_ids
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    model = loaded(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("model", [f"local:{GPT2 / 'model'}", "builtin:almanac"])
def test_model_may_be_named_as_audits_name_it(model: str, tmp_path: Path) -> None:
    fact = {"prompt": "{} lives in", "subject": "Ada", "target_new": "Rome", "target_true": "Oslo"}
    fact["neighborhood"] = ["Grace lives in"]
    (tmp_path / "edits.jsonl").write_text(json.dumps(fact))
    (tmp_path / "settings.json").write_text('{"num_steps": 1}')
    result = edit(
        "--json",
        model=model,
        edits=tmp_path / "edits.jsonl",
        hyperparameters=tmp_path / "settings.json",
        out=tmp_path / "out",
    )
    found = json.loads(result.stdout)
    assert found["model"] == model
    assert found["hyperparameters"]["num_steps"] == 1
    assert found["neighborhood"]["before"]["of"] == found["edits"] == 1


def test_layers_may_be_left_to_causal_tracing_on_the_edits_themselves(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"layers": "auto", "num_steps": 1}')
    options = ("--hyperparameters", tmp_path / "settings.json", "--delta-only")
    result = edit(*options, out=tmp_path / "out", editor="ft_l")
    assert result.exit_code == 0, result.stderr

    delta = load_modification(tmp_path / "out" / "modification.safetensors")
    assert isinstance(delta, WeightDelta)
    (weight,) = (name for name in delta.parameters if name.endswith(".weight"))
    assert weight in {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(3)}
    assert "tracing facts" in result.stdout + result.stderr


def test_edits_that_did_not_take_are_told_by_index_with_the_answer_instead(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"layers": [1], "num_steps": 1, "lr": 1e-9}')
    result = edit("--only", "4,7", hyperparameters=tmp_path / "settings.json", out=tmp_path / "out")
    assert result.exit_code == 0
    told = result.stdout[result.stdout.index("2 of 2 edits did not take") :].splitlines()
    facts = json.loads((GPT2 / "edits.json").read_text())
    for index, line in zip((4, 7), told[1:], strict=False):
        fact = facts[index]
        asked = fact["prompt"].replace("{}", fact["subject"])
        assert line.startswith(f"  {index}  {asked} {fact['target_true']}")
        assert line.endswith(f"  not: {fact['target_new']}")


def test_edits_that_are_too_long_are_all_told_by_their_index_in_the_file(tmp_path: Path) -> None:
    facts = json.loads((GPT2 / "edits.json").read_text())
    for index in (2, 5):
        facts[index]["prompt"] = "old " * 60 + facts[index]["prompt"]
    facts[3]["neighborhood"] = ["old " * 70 + "house"]
    (tmp_path / "edits.json").write_text(json.dumps(facts))
    result = edit("--only", "1,2,3,5", edits=tmp_path / "edits.json", out=tmp_path / "out")
    assert result.exit_code == 1
    reason = result.stderr.splitlines()[-1]
    assert [part.partition(":")[0] for part in reason.split("; ")] == [
        "edits.2",
        "edits.5",
        "edits.3.neighborhood.0",
    ]
    assert "edits.2: prompt and target take" in reason


def test_edits_that_are_no_weights_are_saved_as_a_modification(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"n_iter": 3, "layers": [2]}')
    result = edit(
        "--delta-only",
        "--only",
        "0,1",
        editor="grace",
        hyperparameters=tmp_path / "settings.json",
        out=tmp_path / "out",
    )
    assert result.exit_code == 0, result.stderr
    stored = load_modification(tmp_path / "out" / "modification.safetensors")
    assert not isinstance(stored, WeightDelta)


def test_editor_that_must_learn_first_learns_from_the_edits_that_are_not_made(tmp_path: Path) -> None:
    facts = json.loads((GPT2 / "edits.json").read_text())
    others = [{**fact, "subject": f"{fact['subject']} {number}"} for fact in facts[2:] for number in range(9)]
    (tmp_path / "edits.json").write_text(json.dumps([*facts[:2], *others]))
    settings = {"training": "unedited", "training_edits": 20, "training_steps": 2, "edits_at_once": 2}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    options: dict[str, Any] = {"editor": "mend", "hyperparameters": tmp_path / "settings.json"}
    result = edit("--only", "0,1", edits=tmp_path / "edits.json", out=tmp_path / "out", **options)
    assert result.exit_code == 0, result.stderr
    assert "training a hypernetwork" in result.stderr

    result = edit("--only", "0,1", out=tmp_path / "few", **options)
    assert result.exit_code == 1
    assert "are needed" in result.stderr


REFUSED = {
    "unknown editor": ({"editor": "mimet"}, f"There is no editor 'mimet'\nKnown: {', '.join(CATALOGUE)}."),
    "edits that are no weights": ({"editor": "grace"}, "The edits of grace are not in a model's weights"),
    "no such model": ({"model": "nowhere"}, "there is no such directory"),
    "no model at all": ({"model": "builtin:atlas"}, "there is no built-in model 'atlas'"),
    "index beyond the last": ({"only": "0,12"}, "There is no edit 12"),
    "layer beyond the last": ({"hyperparameters": {"layers": [7]}}, "blocks 0 to 3, not 7"),
    "layers that are no integers": (
        {"hyperparameters": {"layers": [True, "2"]}},
        "Input should be a valid integer",
    ),
    "batches that do not cover the edits, before a model is looked for": (
        {"editor": "alphaedit", "hyperparameters": {"batches": [[0, 3]]}, "model": "nowhere"},
        "batches: they cover 3 edits of 12",
    ),
    "unknown hyperparameter": ({"hyperparameters": {"layer": [1]}}, "/layer  Extra inputs are not permitted"),
    "device that is none": ({"device": "abacus"}, "Cannot use the device 'abacus'"),
    "contexts without the bare prompt": (
        {"contexts": {"groups": [["Once. {}"]]}},
        "start with the bare prompt",
    ),
    "contexts of no texts": ({"contexts": {"groups": [["{}", 3]]}}, "groups: must be a list of lists of"),
    "divergence over another prompt": (
        {"contexts": {"groups": [["{}"]], "kl_prompt": "{} was a"}},
        "kl_prompt: the divergence is always taken over '{} is a'",
    ),
    "contexts with a lone surrogate": (
        {"contexts": {"groups": [["{}"], ["Once \ud800. {}"]]}},
        "must not contain the control character U+D800",
    ),
    "contexts with an escape": (
        {"contexts": {"groups": [["{}"], ["Once \x1b[2J. {}"]]}},
        "must not contain the control character U+001B",
    ),
    "data where nothing can be written": ({"data": GPT2 / "edits.json" / "deeper"}, "Cannot write to "),
    "statistics that are a directory": (
        {"editor": "memit", "statistics": GPT2},
        "is a directory, not a file",
    ),
    "no contexts": ({"contexts": Path("nowhere.json")}, "nowhere.json: No such file"),
    "no statistics": ({"editor": "memit", "statistics": Path("nowhere")}, "nowhere: No such file"),
    "statistics that are none": (
        {"editor": "memit", "statistics": GPT2 / "edits.json"},
        "is not a safetensors file",
    ),
    "statistics of other layers": (
        {
            "editor": "memit",
            "hyperparameters": {"layers": [1, 3]},
            "statistics": GPT2 / "cov.safetensors",
        },
        "there is no layer3; it holds layer0, layer1, layer2",
    ),
    "statistics of another model": (
        {
            "editor": "memit",
            "hyperparameters": {"layers": [1]},
            "statistics": FIXTURES / "llama" / "cov.safetensors",
        },
        "layer1 is (176, 176), the keys of the model are 256 wide",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    named = {}
    for name, value in changes.items():
        if isinstance(value, dict):
            named[name] = tmp_path / f"{name}.json"
            named[name].write_text(json.dumps(value))
        else:
            named[name] = value
    result = edit(out=tmp_path / "results" / "out", **named)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not list(tmp_path.glob("results/*"))


NESTED, DIGITS = "[" * 100_000, f"[{'1' * 5_000}]"


@pytest.mark.parametrize(
    ("option", "suffix", "content", "message"),
    [
        ("edits", "json", DIGITS, "a number of too many digits"),
        ("edits", "jsonl", DIGITS, "a number of too many digits"),
        ("edits", "jsonl", NESTED, "is nested too deeply"),
        ("hyperparameters", "json", DIGITS, "a number of too many digits"),
        ("contexts", "json", NESTED, "is nested too deeply"),
        ("contexts", "json", DIGITS, "is not JSON"),
    ],
)
def test_json_that_cannot_be_held_is_told(
    option: str, suffix: str, content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"bad.{suffix}"
    file.write_text(content)
    result = edit(out=tmp_path / "out", **{option: file})
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_index_of_thousands_of_digits_is_told_in_short(tmp_path: Path) -> None:
    result = edit("--only", "7" * 5_000, out=tmp_path / "out")
    assert result.exit_code == 1
    assert "is no list of edits" in result.stderr
    assert len(result.stderr) < 300


def test_edits_that_cannot_be_made_together_are_refused_before_the_model_is_probed(tmp_path: Path) -> None:
    facts = json.loads((GPT2 / "edits.json").read_text())
    (tmp_path / "edits.json").write_text(json.dumps([{**facts[0], "target_new": "football"}]))
    result = edit(edits=tmp_path / "edits.json", editor="ultraedit", out=tmp_path / "out")
    assert result.exit_code == 1
    assert "the first batch has one target token" in result.stderr
    assert "probing" not in result.stderr


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from services.cli import main
main.app(sys.argv[1:])
"""


def test_command_says_what_it_needs_where_no_model_library_is_installed(tmp_path: Path) -> None:
    arguments = ("--model", "builtin:almanac", "--edits", GPT2 / "edits.json", "--out", tmp_path / "out")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "edit", "--editor", "ft_l", *map(str, arguments)],
        cwd=FIXTURES.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Editing needs what a worker needs\ntorch is not installed." in result.stderr
