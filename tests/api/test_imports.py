"""The gateway is light: it runs where nothing that touches a model is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "matplotlib",
    "safetensors",
    "pandas",
)
SUBMIT_WITHOUT = f"""
import sys, tempfile
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())

import migrations
from starlette.testclient import TestClient
from services.api.app import create_app
from services.api.examples import SMALL_REQUEST
from shared.settings import Settings

with tempfile.TemporaryDirectory() as directory:
    settings = Settings(data_directory=Path(directory))
    migrations.upgrade(settings.resolved_database_url)
    with TestClient(create_app(settings)) as client:
        response = client.post("/audits", json=SMALL_REQUEST)
        assert client.get(response.headers["Location"]).status_code == 200
        print(response.status_code)
"""


def test_gateway_accepts_an_audit_where_no_model_library_is_installed() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SUBMIT_WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "202\n"), result.stderr
