"""Nothing but loopback is needed once the model is prepared, and proxies don't matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Runs in a process of its own: from nothing to the first token, then the control routes, then stop.
COLD_START = """
import json, socket, time
start = time.monotonic()
import requests
from foundry_lab import engine
endpoint = engine.ensure_service(progress=False)
session = requests.Session()
session.trust_env = False
body = {"model": engine.service_status().model_id, "stream": True, "max_tokens": 8,
        "messages": [{"role": "user", "content": "Say hello."}]}
with session.post(endpoint + "/v1/chat/completions", json=body, stream=True, timeout=30) as answer:
    for line in answer.iter_lines():
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            break
    first_token_s = time.monotonic() - start
state = engine.control_for(endpoint)
models = session.get(state.control_url + "/control/models", timeout=10,
                     headers={"Authorization": "Bearer " + state.control_token}).json()
try:
    socket.create_connection(("192.0.2.1", 80), 1).close()
    reachable = True
except OSError:
    reachable = False
print(json.dumps({"first_token_s": first_token_s, "models": [m["id"] for m in models],
                  "reachable": reachable, "stopped": engine.stop_service()}))
"""
LIMIT_S = 6.0
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def cold_start(*prefix: str, **variables: str) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if name.upper() != "NO_PROXY"}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", COLD_START],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def quick(result: dict[str, object]) -> bool:
    """Whether a start took about as long as one that nothing hinders, on a busy machine too."""
    return result["first_token_s"] < LIMIT_S or result["first_token_s"] < 2 * cold_start()["first_token_s"]


def without_network() -> list[str]:
    """The command in front of another that takes every network but loopback away, or skip."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None:
        pytest.skip("needs Linux with unshare and ip")
    options = ["-n"] if os.geteuid() == 0 else ["-r", "-n"]
    command = [unshare, *options, "sh", "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    return command


def test_cold_start_without_a_network(own_home: Path) -> None:
    """No waiting for a catalog that can't be reached: first token within 6 s on an idle machine."""
    result = cold_start(*without_network())
    assert result["reachable"] is False
    assert result["models"] == ["smollm2-135m-instruct-generic-cpu:1"]
    assert quick(result)
    assert result["stopped"] is True


@pytest.mark.parametrize("names", [PROXIES, ("http_proxy",)], ids=["all", "http_proxy"])
def test_a_dead_proxy_changes_nothing(own_home: Path, names: tuple[str, ...]) -> None:
    result = cold_start(**dict.fromkeys(names, "http://127.0.0.1:9"))
    assert result["models"] == ["smollm2-135m-instruct-generic-cpu:1"]
    assert quick(result)
