"""The operations guide says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from shared.settings import Settings
from tests.deployment.compose import CLUSTER, ROOT, load, variables

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


def test_guide_describes_every_volume() -> None:
    section = GUIDE.split("| volume |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(load(CLUSTER)["volumes"])


def test_files_that_the_guide_names_exist() -> None:
    named = re.findall(r"docker[-/][\w./-]+\.(?:env|yml)|constraints\.txt", GUIDE)
    assert named
    assert [name for name in named if not Path(ROOT / name).exists()] == []
