"""The compose files say what they should: valid, closed by default, and nothing named that is not there."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shared.settings import Settings
from tests.deployment.compose import (
    CLUSTER,
    EXAMPLE_ENVIRONMENT,
    GPU,
    REQUIRED,
    ROOT,
    VariableMissing,
    load,
    variables,
)

SCHEMA = json.loads((ROOT / "tests" / "fixtures" / "compose-spec.json").read_text())
FILES = {"cluster": (CLUSTER,), "cluster with GPU": (CLUSTER, GPU)}
SERVICES = sorted(load(CLUSTER)["services"])
ONE_SHOT = {"migrate"}
OURS = ["gateway", "migrate", "worker"]
MOUNTED_FROM_HOST = {"models", "records"}


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(CLUSTER)["services"][name]
    return found


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, f"'{duration}' is not in whole seconds"
    return float(match[1])


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_files_follow_the_compose_specification(files: tuple[Path, ...]) -> None:
    without_name = {key: value for key, value in load(*files).items() if key != "name"}
    jsonschema.Draft201909Validator(SCHEMA).validate(without_name)


def test_schema_in_use_tells_a_misspelt_key() -> None:
    misspelt = {"services": {"worker": service("worker") | {"healthchek": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="healthchek"):
        jsonschema.Draft201909Validator(SCHEMA).validate(misspelt)


@pytest.mark.parametrize("name", REQUIRED)
def test_cluster_does_not_start_without_its_secrets(name: str) -> None:
    with pytest.raises(VariableMissing, match=name):
        load(CLUSTER, environment=REQUIRED | {name: ""})


def test_example_environment_names_the_variables_that_are_read() -> None:
    named = set(re.findall(r"^#? ?([A-Z_]+)=", EXAMPLE_ENVIRONMENT.read_text(), flags=re.MULTILINE))
    passed_on = {key for key, value in service("worker")["environment"].items() if value is None}
    assert named == variables(CLUSTER.read_text()) | variables(GPU.read_text()) | passed_on


@pytest.mark.parametrize("name", SERVICES)
def test_networks_and_named_volumes_are_declared(name: str) -> None:
    cluster = load(CLUSTER)
    sources = [volume.split(":")[0] for volume in service(name).get("volumes", [])]
    named = {source for source in sources if not source.startswith((".", "/"))}
    assert set(service(name)["networks"]) <= set(cluster["networks"])
    assert named <= set(cluster["volumes"])


def test_every_declared_volume_is_used() -> None:
    used = {volume.split(":")[0] for name in SERVICES for volume in service(name).get("volumes", [])}
    assert set(load(CLUSTER)["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_waiting_is_for_a_service_that_can_meet_the_condition(name: str) -> None:
    for awaited, wait in service(name).get("depends_on", {}).items():
        ends = wait["condition"] == "service_completed_successfully"
        assert ends == (awaited in ONE_SHOT)
        assert ends or "healthcheck" in service(awaited)


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_nothing_of_ours_starts_before_the_migrations_have_ended(name: str) -> None:
    assert service(name)["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_has_a_health_check(name: str) -> None:
    assert ("healthcheck" in service(name)) == (name not in ONE_SHOT)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_is_restarted(name: str) -> None:
    assert service(name)["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened(name: str) -> None:
    found = service(name)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in found["tmpfs"]  # noqa: S108 (a path in the container)
    assert "privileged" not in found


@pytest.mark.parametrize("name", ["database", "broker"])
def test_service_we_do_not_build_is_told_not_to_run_as_root(name: str) -> None:
    assert service(name)["user"] not in ("root", "0")


@pytest.mark.parametrize("name", SERVICES)
def test_image_is_pinned_to_a_version(name: str) -> None:
    _, _, tag = service(name)["image"].partition(":")
    assert re.match(r"\d+(\.\d+)", tag) or tag.startswith("17-")


def test_only_the_gateway_is_published_and_on_loopback_alone() -> None:
    published = {name: service(name)["ports"] for name in SERVICES if "ports" in service(name)}
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}


@pytest.mark.parametrize("name", ["database", "broker"])
def test_store_is_reached_from_the_inside_network_only(name: str) -> None:
    assert service(name)["networks"] == ["inside"]
    assert load(CLUSTER)["networks"]["inside"]["internal"] is True


@pytest.mark.parametrize("name", OURS)
def test_environment_names_settings_that_exist_and_values_they_take(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {key: value for key, value in service(name)["environment"].items() if value is not None}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert {key.removeprefix("HOLDFAST_").lower() for key in environment} <= Settings().model_fields_set


@pytest.mark.parametrize("name", OURS)
def test_urls_carry_the_passwords_and_names_of_the_stores(name: str) -> None:
    environment, database = service(name)["environment"], service("database")["environment"]
    user, password = database["POSTGRES_USER"], database["POSTGRES_PASSWORD"]
    assert environment["HOLDFAST_DATABASE_URL"] == (
        f"postgresql+psycopg://{user}:{password}@database:5432/{database['POSTGRES_DB']}"
    )
    password = service("broker")["environment"]["REDISCLI_AUTH"]
    assert environment["HOLDFAST_BROKER_URL"] == f"redis://:{password}@broker:6379/0"


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_roots_and_artifacts_are_mounted_where_the_settings_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in service(name)["environment"].items():
        if value is not None:
            monkeypatch.setenv(key, value)
    mounts = {volume.split(":")[1]: volume.split(":")[2:] for volume in service(name)["volumes"]}
    for root in (*Settings().model_roots, *Settings().data_roots):
        assert mounts[str(root)] == ["ro"]
    assert mounts[Settings().resolved_artifacts_url.removeprefix("file://")] == []


def test_workers_do_not_share_the_directory_of_their_heartbeats() -> None:
    assert "/data" in service("worker")["tmpfs"]


def test_broker_keeps_its_messages_and_never_evicts_them() -> None:
    command = service("broker")["command"][-1]
    for option in ("--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction"):
        assert option in command


def test_worker_is_given_the_time_to_hand_over_and_to_end_its_child() -> None:
    assert seconds(service("worker")["stop_grace_period"]) > Settings().stop_seconds


def test_worker_is_found_silent_only_after_a_lease() -> None:
    settings = Settings()
    assert seconds(service("worker")["healthcheck"]["interval"]) < settings.lease_seconds
    assert settings.heartbeat_seconds < settings.lease_seconds


@pytest.mark.parametrize("name", OURS)
def test_build_names_files_that_exist(name: str) -> None:
    build = service(name)["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def test_gpu_is_reserved_and_used_by_the_worker_alone() -> None:
    overridden = yaml.safe_load(GPU.read_text())["services"]
    assert list(overridden) == ["worker"]
    worker = load(CLUSTER, GPU)["services"]["worker"]
    assert worker["environment"]["HOLDFAST_DEVICE"] == "cuda"
    assert worker["build"]["args"]["TORCH_BUILD"] == "cuda"
    assert worker["image"] != service("worker")["image"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("module", ["migrations.__main__", "services.worker.health", "services.api.app"])
def test_module_that_a_command_names_is_there(module: str) -> None:
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("module", ["services.api.app", "services.worker.tasks", "services.worker.health"])
def test_process_that_a_command_starts_does_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
