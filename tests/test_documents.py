"""What a newcomer copies from the documents works as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from services.cli.editors_page import editors_page
from shared.requests import AuditRequest

ROOT = Path(__file__).parents[1]


def test_readmes_audit_is_a_valid_request() -> None:
    [body] = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert AuditRequest.model_validate(json.loads(body)).configurations()


def test_demos_audit_is_a_valid_request_on_the_built_in_model() -> None:
    request = AuditRequest.model_validate_json((ROOT / "examples" / "almanac.json").read_text())
    assert request.model == "builtin:almanac"
    assert len(request.edits) == 24


def test_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_page_of_editors_is_what_the_catalogue_says() -> None:
    page = (ROOT / "docs" / "editors.md").read_text()
    assert page == editors_page(), "run: holdfast editors --markdown > docs/editors.md"
