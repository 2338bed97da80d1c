"""The images are built from files that exist, run as nobody special, and hold what they need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deployment.compose import CLUSTER, ROOT, load

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
Instruction = tuple[str, str]


def instructions(dockerfile: Path) -> list[Instruction]:
    """(instruction, arguments) of every line, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        found.append((word, rest.strip()))
    return found


def last_stage(dockerfile: Path) -> list[Instruction]:
    found = instructions(dockerfile)
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def copied(dockerfile: Path) -> list[str]:
    """What is copied from the build context."""
    arguments = [rest.split() for word, rest in instructions(dockerfile) if word == "COPY"]
    return [source for words in arguments if not words[0].startswith("--from") for source in words[:-1]]


def sent_to_the_engine() -> set[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


both = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)


def test_there_is_an_image_for_the_gateway_and_one_for_the_worker() -> None:
    assert [path.stem for path in DOCKERFILES] == ["gateway", "worker"]


@both
def test_copied_files_exist_and_are_sent_to_the_engine(dockerfile: Path) -> None:
    for source in copied(dockerfile):
        assert (ROOT / source).exists()
        assert source.split("/")[0] in sent_to_the_engine()


@both
def test_files_that_the_project_metadata_names_are_copied(dockerfile: Path) -> None:
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= set(copied(dockerfile))


def test_nothing_but_what_is_named_is_sent_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"


@both
def test_image_runs_as_a_numbered_user_that_is_not_root(dockerfile: Path) -> None:
    users = [rest for word, rest in last_stage(dockerfile) if word == "USER"]
    assert users == ["10001:10001"]


@both
def test_base_image_is_pinned_to_a_version_of_python_that_the_project_supports(dockerfile: Path) -> None:
    versions = [rest for word, rest in instructions(dockerfile) if rest.startswith("PYTHON=")]
    assert len(versions) == 1
    assert re.fullmatch(r"PYTHON=3\.1[12]-slim-\w+", versions[0])
    bases = [rest for word, rest in instructions(dockerfile) if word == "FROM"]
    assert bases == ["python:${PYTHON} AS build", "python:${PYTHON}"]


@both
def test_build_tools_and_sources_stay_in_the_build_stage(dockerfile: Path) -> None:
    assert [rest for word, rest in last_stage(dockerfile) if word == "COPY"] == ["--from=build /venv /venv"]


@both
def test_dependencies_are_installed_at_the_versions_that_were_tested(dockerfile: Path) -> None:
    installs = [
        command
        for word, rest in instructions(dockerfile)
        if word == "RUN"
        for command in re.findall(r"pip install [^&;]*", rest)
    ]
    assert len(installs) >= 2
    for command in installs:
        assert "--constraint constraints.txt" in command or "--no-deps" in command


def test_gateway_image_has_no_torch() -> None:
    text = " ".join(rest for _, rest in instructions(ROOT / "docker" / "gateway.Dockerfile"))
    assert "'.[postgres]'" in text
    assert "torch" not in text
    assert "services/worker" not in text


def test_worker_image_holds_the_worker_and_its_dependencies() -> None:
    dockerfile = ROOT / "docker" / "worker.Dockerfile"
    assert "'.[postgres,worker]'" in " ".join(rest for _, rest in instructions(dockerfile))
    assert {"shared", "services/worker", "services/cli"} <= set(copied(dockerfile))


def test_worker_image_owns_the_places_where_volumes_are_mounted() -> None:
    volumes = load(CLUSTER)["services"]["worker"]["volumes"]
    named = [volume.split(":")[1] for volume in volumes if not volume.startswith((".", "/"))]
    made = " ".join(rest for word, rest in last_stage(ROOT / "docker" / "worker.Dockerfile") if word == "RUN")
    assert set(named) <= set(made.split())


def test_temporary_files_of_the_worker_are_not_kept_in_memory() -> None:
    stage = last_stage(ROOT / "docker" / "worker.Dockerfile")
    places = [
        word.partition("=")[2] for _, rest in stage for word in rest.split() if word.startswith("TMPDIR=")
    ]
    worker = load(CLUSTER)["services"]["worker"]
    assert len(places) == 1
    assert places[0] in {volume.split(":")[1] for volume in worker["volumes"]}
    assert places[0] not in worker["tmpfs"]


def test_worker_image_takes_the_torch_that_was_tested() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    assert len(re.findall(r"^torch==", constraints, flags=re.MULTILINE)) == 1
