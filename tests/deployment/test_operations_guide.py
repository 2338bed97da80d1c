"""The operations guide says what is so."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from sqlalchemy import Engine, text

import migrations
from services.cli.main import app
from shared.artifacts import ArtifactStore
from shared.database import create_database_engine
from shared.settings import Settings
from shared.states import AuditStatus
from shared.tables import metadata
from tests.deployment.compose import CLUSTER, ROOT, load, variables
from tests.support.audits import add_work, audit_of, claimed
from tests.support.databases import database_url, engine, postgresql_tables
from tests.support.plans import query_plans

__all__ = ["database_url", "engine", "postgresql_tables"]

GUIDE = (ROOT / "docs" / "operations.md").read_text()


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `HOLDFAST_{name.upper()}` | {default(field)} | {field.description} |")
    return "\n".join(rows)


def default(field: FieldInfo) -> str:
    value = to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
    if value in (None, ""):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def test_guide_lists_every_setting_with_its_default_and_meaning() -> None:
    listed = re.search(r"<!-- settings: begin -->\n(.*?)\n?<!-- settings: end -->", GUIDE, flags=re.DOTALL)
    assert listed is not None
    assert listed[1] == settings_table()


def test_every_setting_has_a_meaning() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_guide_names_only_settings_and_variables_that_exist() -> None:
    settings = {f"HOLDFAST_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"HOLDFAST_[A-Z_]+", GUIDE))
    assert named <= settings | variables(CLUSTER.read_text())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("query", blocks("sql"))
def test_queries_to_watch_run_on_both_databases(engine: Engine, query: str) -> None:
    add_work(engine)
    claimed(engine)
    with engine.connect() as connection:
        connection.execute(text(query)).all()


def test_queries_to_watch_do_not_read_what_has_ended(tmp_path: Path) -> None:
    engine = create_database_engine(f"sqlite:///{tmp_path / 'holdfast.db'}")
    metadata.create_all(engine)
    scanned = {
        line
        for query in blocks("sql")
        for line in query_plans(engine, partial(all_rows, engine, query))
        if line.startswith("SCAN")
    }
    engine.dispose()
    assert scanned <= {
        "SCAN attempt USING INDEX ix_attempt_open_audit_id",
        "SCAN attempt USING INDEX ix_attempt_open_lease_expires_at",
        "SCAN step USING INDEX ix_step_checkpoint_key",
    }


def all_rows(engine: Engine, query: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(query)).all()


def commands(start: str) -> list[list[str]]:
    """The words after `start`, of every command in a code span or block."""
    lines = re.findall(rf"(?:^|[\s`]){start} ([a-z][^`#\n<]*)", GUIDE, flags=re.MULTILINE)
    return [shlex.split(line.rstrip("\\")) for line in lines]


def test_commands_that_the_guide_gives_are_there_with_their_options() -> None:
    given = [words for words in commands("holdfast") if words[0] not in {"is", "does"}]
    assert ["retry", "ID", "--from-scratch"] in given
    for words in given:
        options = {word for word in words if word.startswith("--")}
        assert options <= options_of(words), f"holdfast {' '.join(words)}"


def options_of(words: list[str]) -> set[str]:
    """The options of the command that the words begin with."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    assert command.name != app.info.name, f"there is no command 'holdfast {words[0]}'"
    return {option for given in command.params for option in (*given.opts, *given.secondary_opts)}


def test_services_that_the_guides_commands_name_are_in_the_compose_file() -> None:
    services = set(load(CLUSTER)["services"])
    of_one_service = [words for words in commands("docker compose") if words[0] in {"exec", "run"}]
    assert len(of_one_service) > 5
    for verb, *words in of_one_service:
        positional = [word for word in words if not word.startswith("-") and not word.isdecimal()]
        assert positional[0] in services, f"docker compose {verb} {' '.join(words)}"
    for verb, *words in commands("docker compose"):
        if verb in {"stop", "restart", "logs", "ps"}:
            assert set(words) <= services, f"docker compose {verb} {' '.join(words)}"


def test_messages_that_the_guide_quotes_are_in_the_code() -> None:
    source = "".join(
        path.read_text() for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")
    )
    for message in (
        "the relay goes on after an error",
        "lost a worker",
        "stopped renewing",
        "showed no progress",
        "was killed by",
        "as the kernel does when memory runs out",
        "not migrated",
    ):
        assert message in " ".join(GUIDE.split())
        assert message in source


def test_links_within_the_guide_lead_to_its_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", GUIDE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_embedded_backup_taken_while_the_service_writes_can_be_restored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'holdfast-data' / 'holdfast.db'}"
    migrations.upgrade(url)
    engine = create_database_engine(url)
    audit_id, _ = add_work(engine)
    content = b"a delta"
    artifact = ArtifactStore((tmp_path / "holdfast-data" / "artifacts").as_uri()).put(content, ".bin")
    back_up, restore = blocks("sh")
    assert (tmp_path / "holdfast-data" / "holdfast.db-wal").stat().st_size > 0

    run_in(tmp_path, back_up)
    engine.dispose()
    shutil.rmtree(tmp_path / "holdfast-data")
    run_in(tmp_path, restore)

    engine = create_database_engine(url)
    assert audit_of(engine, audit_id).status is AuditStatus.QUEUED
    engine.dispose()
    assert ArtifactStore((tmp_path / "holdfast-data" / "artifacts").as_uri()).get(artifact) == content


def run_in(directory: Path, commands: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", commands], cwd=directory, env=os.environ | {"PATH": path}, check=True)


def test_guide_describes_every_volume() -> None:
    section = GUIDE.split("| volume |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(load(CLUSTER)["volumes"])


def test_files_that_the_guide_names_exist() -> None:
    named = re.findall(r"docker[-/][\w./-]+\.(?:env|yml)|constraints\.txt", GUIDE)
    assert named
    assert [name for name in named if not Path(ROOT / name).exists()] == []
