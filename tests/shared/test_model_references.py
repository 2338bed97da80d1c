"""A model is named, checked without loading it, and laid out for loading, from each of three sources."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.model_files import HubUnavailable
from shared.model_references import (
    BuiltinModel,
    HubModel,
    LocalModel,
    ModelNotUsable,
    content_revision,
    inspect_model,
    model_directory,
    parse_model_reference,
)
from shared.settings import Settings
from tests.support.hub_server import Hub, Repository, running_hub
from tests.support.model_files import tiny_gpt2_files, write_files

NAME = "team/tiny"
TINY = HubModel(NAME, "main")
CODE = b"raise SystemExit('code of a model was run')"

Files = dict[str, bytes]


def config_with(**changes: object) -> Files:
    """The tiny model with another configuration; None removes an entry."""
    config = json.loads(tiny_gpt2_files()["config.json"]) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    return {**tiny_gpt2_files(), "config.json": json.dumps(kept).encode()}


def without(name: str, files: Files | None = None) -> Files:
    return {key: value for key, value in (files or tiny_gpt2_files()).items() if key != name}


def pickled(name: str) -> Files:
    return {**without("model.safetensors"), name: b"\x80\x04."}


def sharded(**changes: object) -> Files:
    """The tiny model in three shards, with another index."""
    files = dict(tiny_gpt2_files("100KB"))
    index = json.loads(files["model.safetensors.index.json"]) | changes
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


UNUSABLE: dict[str, tuple[Callable[[], Files], str]] = {
    "no config": (lambda: without("config.json"), "has no config.json"),
    "config not JSON": (lambda: {**tiny_gpt2_files(), "config.json": b"{"}, "config.json is not JSON"),
    "config not UTF-8": (lambda: {**tiny_gpt2_files(), "config.json": b"\xff\x00"}, "is not JSON"),
    "config nested too deep": (lambda: {**tiny_gpt2_files(), "config.json": b"[" * 100_000}, "is not JSON"),
    "config not an object": (lambda: {**tiny_gpt2_files(), "config.json": b"[]"}, "is not a JSON object"),
    "encoder": (lambda: config_with(architectures=["BertForMaskedLM"]), "not a causal language model"),
    "encoder and decoder": (lambda: config_with(is_encoder_decoder=True), "not a causal language model"),
    "no architecture": (lambda: config_with(architectures=None), "does not say its architecture"),
    "code of its own": (lambda: config_with(auto_map={"AutoModel": "m.M"}), "auto_map"),
    "tokenizer code": (
        lambda: {**tiny_gpt2_files(), "tokenizer_config.json": b'{"auto_map": {}}'},
        "tokenizer needs Python code",
    ),
    "quantised": (lambda: config_with(quantization_config={"bits": 4}), "quantised"),
    "adapter": (
        lambda: {**without("config.json"), "adapter_config.json": b"{}"},
        "merge it into its base model",
    ),
    "pickle .bin": (lambda: pickled("pytorch_model.bin"), "only as pickle \\(pytorch_model.bin\\)"),
    "pickle .pt": (lambda: pickled("model.pt"), "only as pickle"),
    "pickle .pth": (lambda: pickled("consolidated.00.pth"), "only as pickle"),
    "pickle .ckpt": (lambda: pickled("model.ckpt"), "only as pickle"),
    "no weights": (lambda: without("model.safetensors"), "weights are nowhere"),
    "missing shard": (
        lambda: without("model-00002-of-00003.safetensors", sharded()),
        "1 of its 3 shards are missing, first model-00002-of-00003.safetensors",
    ),
    "shard in another directory": (
        lambda: sharded(weight_map={"w": "../../secret.safetensors"}),
        "no plain .safetensors file",
    ),
    "shard that is a pickle": (lambda: sharded(weight_map={"w": "model.bin"}), "no plain .safetensors"),
    "empty index": (lambda: sharded(weight_map={}), "has no weight_map"),
    "no tokenizer": (lambda: without("tokenizer.json"), "has no tokenizer"),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> Settings:
    return Settings(
        data_directory=tmp_path / "data", model_roots=(tmp_path / "models",), hub_endpoint=hub.url
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_files(tmp_path / "models" / "tiny", tiny_gpt2_files())


def push(hub: Hub, files: Files) -> str:
    return hub.repositories.setdefault(NAME, Repository()).push(files)


def fetch(reference: HubModel, settings: Settings) -> Path:
    revision = inspect_model(reference, settings).revision
    return model_directory(reference, revision, settings, builtin_directories={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("builtin:almanac", BuiltinModel("almanac")),
        ("local:/models/a model", LocalModel(Path("/models/a model"))),
        ("local:team/model", LocalModel(Path("team/model"))),
        ("hf:team/model@v1.0", HubModel("team/model", "v1.0")),
        ("hf:team/model@refs/pr/3", HubModel("team/model", "refs/pr/3")),
    ],
)
def test_reference_reads_back_as_it_was_written(text: str, expected: object) -> None:
    reference = parse_model_reference(text)
    assert (reference, str(reference)) == (expected, text)


def test_sequence_to_sequence_model_may_write_but_not_be_audited(settings: Settings, tmp_path: Path) -> None:
    files = config_with(architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    directory = write_files(tmp_path / "models" / "rewriter", files)
    reference = LocalModel(Path("rewriter"))
    assert inspect_model(reference, settings, only_writes=True).architecture == "T5ForConditionalGeneration"
    assert model_directory(reference, None, settings, builtin_directories={}, only_writes=True) == directory
    for use in (
        lambda: inspect_model(reference, settings),
        lambda: model_directory(reference, None, settings, builtin_directories={}),
    ):
        with pytest.raises(ModelNotUsable, match="not a causal language model but T5ForConditional"):
            use()


def test_hub_reference_without_revision_means_main() -> None:
    assert parse_model_reference("hf:team/model") == HubModel("team/model", "main")


MALFORMED = (
    *("", "gpt2", "http://host/model", "builtin:", "builtin:gpt2", "local:", "local:a\0b"),
    *("hf:", "hf:model", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:http://h/b"),
    *("hf:a/b@", "hf:a/b@../x", "hf:a/b@x?y", "hf:a/b@x#y"),
)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(ModelNotUsable):
        parse_model_reference(text)


@pytest.mark.parametrize("path", ["tiny", "{root}/tiny", "other/../tiny"])
def test_local_model_is_described(path: str, directory: Path, settings: Settings) -> None:
    reference = LocalModel(Path(path.format(root=settings.model_roots[0])))
    inspected = inspect_model(reference, settings)
    assert (inspected.model_type, inspected.architecture) == ("gpt2", "GPT2LMHeadModel")
    assert (inspected.block_count, inspected.revision) == (4, None)
    assert model_directory(reference, None, settings, builtin_directories={}) == directory


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_local_model_is_refused_with_its_reason(
    case: str, settings: Settings, tmp_path: Path
) -> None:
    files, reason = UNUSABLE[case]
    write_files(tmp_path / "models" / "bad", files())
    with pytest.raises(ModelNotUsable, match=reason):
        inspect_model(LocalModel(Path("bad")), settings)


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_hub_model_is_refused_with_its_reason(case: str, hub: Hub, settings: Settings) -> None:
    files, reason = UNUSABLE[case]
    push(hub, files())
    with pytest.raises(ModelNotUsable, match=reason):
        inspect_model(TINY, settings)


@pytest.mark.parametrize("path", ["../outside", "{outside}", "link", "tiny/../../outside", "/"])
def test_directory_outside_the_roots_is_refused(
    path: str, directory: Path, settings: Settings, tmp_path: Path
) -> None:
    outside = write_files(tmp_path / "outside", tiny_gpt2_files())
    (directory.parent / "link").symlink_to(outside)
    with pytest.raises(ModelNotUsable, match="not under an allowed model root"):
        inspect_model(LocalModel(Path(path.format(outside=outside))), settings)


def test_whether_a_directory_outside_the_roots_exists_is_not_given_away(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    reasons = set()
    for name in ("there", "not-there"):
        with pytest.raises(ModelNotUsable) as refused:
            inspect_model(LocalModel(tmp_path / name), settings)
        reasons.add(refused.value.reason)
    assert len(reasons) == 1


def test_file_that_links_out_of_the_roots_is_refused(
    directory: Path, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (directory / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelNotUsable, match=r"vocab\.txt is a link out of"):
        inspect_model(LocalModel(Path("tiny")), settings)


def test_local_model_is_checked_again_before_it_is_loaded(directory: Path, settings: Settings) -> None:
    inspect_model(LocalModel(Path("tiny")), settings)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelNotUsable, match="only as pickle"):
        model_directory(LocalModel(Path("tiny")), None, settings, builtin_directories={})


def test_missing_local_directory_is_refused(directory: Path, settings: Settings) -> None:
    with pytest.raises(ModelNotUsable, match="no such directory"):
        inspect_model(LocalModel(Path("absent")), settings)


def test_name_that_no_file_system_takes_is_refused(directory: Path, settings: Settings) -> None:
    with pytest.raises(ModelNotUsable, match="cannot be read"):
        inspect_model(LocalModel(Path("m" * 300)), settings)


@pytest.mark.parametrize("path", ["circle", "tiny"])
def test_links_that_lead_in_a_circle_are_refused(path: str, directory: Path, settings: Settings) -> None:
    for place in (directory, directory.parent):
        (place / "circle").symlink_to("circle")
    with pytest.raises(ModelNotUsable, match="circle"):
        inspect_model(LocalModel(Path(path)), settings)


def test_local_models_are_refused_when_no_root_is_configured(directory: Path, settings: Settings) -> None:
    bare = settings.model_copy(update={"model_roots": ()})
    with pytest.raises(ModelNotUsable, match="no model root is configured"):
        inspect_model(LocalModel(directory), bare)


def test_builtin_model_needs_no_files_at_submission(settings: Settings) -> None:
    assert inspect_model(BuiltinModel("almanac"), settings).revision is None


def test_builtin_model_is_found_where_the_caller_says(directory: Path, settings: Settings) -> None:
    found = model_directory(
        BuiltinModel("almanac"), None, settings, builtin_directories={"almanac": directory}
    )
    assert found == directory


@pytest.mark.parametrize("files", [tiny_gpt2_files, lambda: tiny_gpt2_files("100KB")])
def test_hub_model_is_fetched_and_loads(files: Callable[[], Files], hub: Hub, settings: Settings) -> None:
    push(hub, files())
    directory = fetch(TINY, settings)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    logits = model(**tokenizer("The city", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.shape == (1, 2, model.config.vocab_size)


def test_fetched_bytes_are_those_of_the_hub(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files())
    directory = fetch(TINY, settings)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == tiny_gpt2_files()


def test_code_pickles_and_copies_of_the_weights_are_never_fetched(hub: Hub, settings: Settings) -> None:
    extra = {"modeling_tiny.py": CODE, "setup.py": CODE, "pytorch_model.bin": CODE, "README.md": b"#"}
    extra |= {"consolidated.safetensors": CODE, "onnx/config.json": b"{}", "training_args.bin": CODE}
    push(hub, {**tiny_gpt2_files(), **extra})
    fetch(TINY, settings)
    assert hub.sent_files == set(tiny_gpt2_files())


def test_only_json_is_fetched_at_submission(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files("100KB"))
    inspect_model(TINY, settings)
    assert hub.sent_files == {"config.json", "model.safetensors.index.json", "tokenizer_config.json"}


def test_pinned_revision_is_fetched_although_main_has_moved(hub: Hub, settings: Settings) -> None:
    first = push(hub, tiny_gpt2_files())
    inspected = inspect_model(TINY, settings)
    push(hub, config_with(n_layer=2))
    directory = model_directory(TINY, inspected.revision, settings, builtin_directories={})
    assert inspected.revision == first
    assert (directory / "config.json").read_bytes() == tiny_gpt2_files()["config.json"]


def test_fetched_model_needs_the_hub_no_more(hub: Hub, settings: Settings) -> None:
    commit = push(hub, tiny_gpt2_files())
    directory = fetch(TINY, settings)
    hub.requests.clear()
    assert model_directory(TINY, commit, settings, builtin_directories={}) == directory
    assert hub.requests == []


def test_interrupted_fetch_is_completed_by_the_next(hub: Hub, settings: Settings) -> None:
    commit = push(hub, tiny_gpt2_files())
    hub.broken["cdn"] = 500
    with pytest.raises(HubUnavailable, match="status 500"):
        model_directory(TINY, commit, settings, builtin_directories={})
    hub.broken.clear()
    directory = model_directory(TINY, commit, settings, builtin_directories={})
    assert {path.name for path in directory.iterdir()} == set(tiny_gpt2_files())


def test_missing_repository_is_refused(settings: Settings) -> None:
    with pytest.raises(ModelNotUsable, match="team/tiny is not on the hub, or it is private"):
        inspect_model(TINY, settings)


def test_missing_revision_is_refused(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files())
    with pytest.raises(ModelNotUsable, match="has no revision 'v2'"):
        inspect_model(HubModel(NAME, "v2"), settings)


def test_private_repository_is_refused_without_a_token(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files())
    hub.repositories[NAME].private = True
    with pytest.raises(ModelNotUsable, match="private"):
        inspect_model(TINY, settings)


def test_gated_repository_is_refused_without_a_token(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files())
    hub.repositories[NAME].gated = True
    with pytest.raises(ModelNotUsable, match="gated"):
        inspect_model(TINY, settings)


def test_configured_token_opens_the_hub_but_is_not_shown_to_its_cdn(hub: Hub, settings: Settings) -> None:
    push(hub, tiny_gpt2_files())
    hub.repositories[NAME].private = hub.repositories[NAME].gated = True
    fetch(TINY, settings.model_copy(update={"hub_token": SecretStr(hub.token)}))
    at_cdn = {request.authorization for request in hub.requests if request.origin == "cdn"}
    assert at_cdn == {None}


def test_token_found_on_the_machine_is_not_used(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    push(hub, tiny_gpt2_files())
    fetch(TINY, settings)
    assert {request.authorization for request in hub.requests} == {None}


def test_broken_hub_is_named_as_the_cause(hub: Hub, settings: Settings) -> None:
    hub.broken["hub"] = 503
    with pytest.raises(HubUnavailable, match="status 503"):
        inspect_model(TINY, settings)


def test_unreachable_hub_is_named_as_the_cause(settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = settings.model_copy(update={"hub_endpoint": f"http://127.0.0.1:{closed.getsockname()[1]}"})
        with pytest.raises(HubUnavailable, match="hub cannot be reached"):
            inspect_model(TINY, away)


def test_silent_hub_is_given_up_on(settings: Settings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        away = settings.model_copy(update={"hub_endpoint": url, "hub_timeout_seconds": 0.2})
        with pytest.raises(HubUnavailable, match="hub cannot be reached"):
            inspect_model(TINY, away)


def test_content_revision_changes_with_any_byte_that_is_loaded(directory: Path) -> None:
    before = content_revision(directory)
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    assert content_revision(directory) != before


def test_content_revision_changes_with_the_chat_template(directory: Path) -> None:
    before = content_revision(directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert content_revision(directory) != before


def test_chat_template_is_fetched_with_the_model(hub: Hub, settings: Settings) -> None:
    push(hub, {**tiny_gpt2_files(), "chat_template.jinja": b"{{ messages }}"})
    assert (fetch(TINY, settings) / "chat_template.jinja").read_bytes() == b"{{ messages }}"


def test_content_revision_ignores_files_that_are_not_loaded(directory: Path) -> None:
    before = content_revision(directory)
    (directory / "README.md").write_text("about")
    assert content_revision(directory) == before


def test_content_revision_is_the_same_for_a_copy_elsewhere(directory: Path, tmp_path: Path) -> None:
    copy = write_files(tmp_path / "copy", tiny_gpt2_files())
    assert content_revision(copy) == content_revision(directory)
