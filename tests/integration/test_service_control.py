"""The control routes of the real service process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from service_tools import eventually

from foundry_lab import engine
from foundry_lab.engine import spec
from foundry_lab.engine.service import launch
from foundry_lab.engine.service.catalog import CATALOG_ROUTE
from foundry_lab.engine.service.state import ServiceState


@pytest.fixture
def service(endpoint: str) -> ServiceState:
    state = engine.control_for(endpoint)
    assert state is not None
    return state


def call(service: ServiceState, method: str, route: str, **options: Any) -> requests.Response:
    options.setdefault("headers", {"Authorization": f"Bearer {service.control_token}"})
    return requests.request(method, f"{service.control_url}/control/{route}", timeout=30, **options)


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "Basic abc", "Bearer é"])
@pytest.mark.parametrize("route", [("GET", "models"), ("POST", "download"), ("POST", "shutdown")])
def test_no_route_without_the_token(service: ServiceState, token: str, route: tuple[str, str]) -> None:
    answer = call(service, *route, headers={"Authorization": token.encode()})
    assert answer.status_code == 401
    assert "token" in answer.json()["error"]
    assert service.control_token not in answer.text


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_control_and_catalog_refuse_web_pages(service: ServiceState, headers: dict[str, str]) -> None:
    """Even one that had the token."""
    token = {"Authorization": f"Bearer {service.control_token}"}
    for method, route in (("POST", "/control/shutdown"), ("GET", "/control/models"), ("POST", CATALOG_ROUTE)):
        answer = requests.request(
            method, f"{service.control_url}{route}", headers={**token, **headers}, json={}, timeout=30
        )
        assert answer.status_code == 403 and answer.json()["error"].startswith("Refused: it ")


def test_the_token_does_not_show(service: ServiceState) -> None:
    assert service.control_token not in repr(service)
    assert len(service.control_token) >= 32


@pytest.mark.parametrize("name", [spec.ALIAS, spec.MODEL_ID])
def test_downloading_what_is_there_is_done_at_once(service: ServiceState, name: str) -> None:
    answer = call(service, "POST", "download", json={"alias": name})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == [{"percent": 100.0}, {"done": True, "id": spec.MODEL_ID}]


def test_downloading_an_unknown_model_names_the_known_ones(service: ServiceState) -> None:
    answer = call(service, "POST", "download", json={"alias": "smollm"})
    assert answer.status_code == 404
    assert answer.json() == {"error": f"The catalog has no model 'smollm'. It has: {spec.ALIAS}."}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"alias": 5}', b"\xff"])
def test_a_download_that_makes_no_sense(service: ServiceState, body: bytes) -> None:
    answer = call(service, "POST", "download", data=body)
    assert answer.status_code == 400
    assert '{"alias": "…"}' in answer.json()["error"]


def test_control_for_knows_its_own_service_only(service: ServiceState, endpoint: str) -> None:
    assert engine.control_for(endpoint.replace("127.0.0.1", "localhost") + "/") == service
    assert engine.control_for("http://127.0.0.1:1") is None
    assert engine.control_for(service.control_url) is None


TWO_MODELS = """
from foundry_lab.engine.service import catalog, process
ours = catalog.model_summary
def find_models(query, size):
    other = ours(size) | {"name": "other-generic-cpu", "alias": "other"}
    other["assetId"] = "azureml://registries/azureml/models/other-generic-cpu/versions/1"
    return {"summaries": [ours(size), other], "totalCount": 2}
catalog.find_models = find_models
process.main()
"""


def test_a_download_that_cannot_be_done(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog has a second model, and the SDK can't reach the place where its files are."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    command = [sys.executable, "-c", TWO_MODELS, "--log-file", str(launch.log_file())]
    server = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert server.stdin is not None
    server.stdin.write(b"noted\n")
    server.stdin.close()
    assert eventually(lambda: engine.service_status() is not None, 90)
    service = engine.service_status()
    assert service is not None
    models = {model["alias"]: model for model in call(service, "GET", "models").json()}
    assert (models["other"]["cached"], models[spec.ALIAS]["cached"]) == (False, True)
    answer = call(service, "POST", "download", json={"alias": "other"})
    last = json.loads(answer.text.splitlines()[-1])
    assert last["error"].startswith("The download of other failed: ")
    assert ".cc:" not in last["error"]
    assert "HTTPS_PROXY" in last["error"]
    assert engine.stop_service()
    assert server.wait(10) == 0
