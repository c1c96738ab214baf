"""Does the SDK still take the loopback catalog? Its schema is no published contract.

If one of these fails after an upgrade of foundry-local-sdk, `foundry_lab/engine/catalog.py` has to follow the
new schema; until then pyproject.toml must keep the SDK at the older version.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from foundry_lab import engine
from foundry_lab.engine import paths, spec


def get(url: str) -> object:
    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_the_model_is_listed_and_loaded(own_home: Path) -> None:
    """In a home of its own, where no answer of an earlier catalog is kept."""
    endpoint = engine.ensure_service(progress=False)
    models = get(f"{endpoint}/v1/models")["data"]
    assert [(model["id"], model["owned_by"]) for model in models] == [(spec.MODEL_ID, spec.PUBLISHER)]
    assert get(f"{endpoint}/models/loaded") == [spec.MODEL_ID]


def test_unload_and_load_by_alias(endpoint: str) -> None:
    assert get(f"{endpoint}/models/unload/{spec.ALIAS}") == {"status": "unloaded"}
    assert get(f"{endpoint}/models/loaded") == []
    assert get(f"{endpoint}/models/load/{spec.ALIAS}") == {"status": "loaded"}
    assert get(f"{endpoint}/models/loaded") == [spec.MODEL_ID]


def test_every_field_of_the_summary_arrives(own_home: Path) -> None:
    """What the control route tells is what the SDK understood of our summary."""
    state = engine.control_for(engine.ensure_service(progress=False))
    assert state is not None
    authorization = {"Authorization": f"Bearer {state.control_token}"}
    answer = requests.get(f"{state.control_url}/control/models", headers=authorization, timeout=30)
    (model,) = answer.json()
    size = sum(file.stat().st_size for file in paths.model_dir().iterdir())
    assert 0 <= size - model.pop("size_bytes") < 2**20  # the SDK keeps whole MiB
    assert model == {
        "id": spec.MODEL_ID,
        "alias": spec.ALIAS,
        "name": spec.DISPLAY_NAME,
        "task": "chat-completion",
        "device": "CPU",
        "license": spec.LICENSE,
        "cached": True,
        "loaded": True,
        "context_length": spec.CONTEXT_LENGTH,
    }


def test_a_catalog_the_sdk_does_not_take_is_named(own_home: Path) -> None:
    """With a summary of another schema the service says so, rather than serving nothing."""
    code = (
        "from foundry_lab.engine.service import catalog, process\n"
        "catalog.model_summary = lambda size: {'modelName': 'of another schema'}\n"
        "process.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="noted\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("foundry-lab: foundry-local-sdk ")
    assert f"{spec.MODEL_ID} isn't listed" in last_line


def test_the_public_catalog_out_of_reach_hides_nothing(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for and unreachable, here behind a dead proxy: it costs seconds, not our model."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("FOUNDRY_LAB_CATALOG", "public")
    endpoint = engine.ensure_service(progress=False)
    state = engine.service_status()
    assert state is not None and state.public_catalog
    assert get(f"{endpoint}/models/loaded") == [spec.MODEL_ID]
