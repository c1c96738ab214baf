"""A class on a JupyterHub: several users of one machine, each with a service, files and secrets of his own.

Not part of the usual run: it makes users of the system, and needs JupyterHub, its proxy and a Python that
other users can read. CONTRIBUTING.md says how.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

pytestmark = pytest.mark.hub

USERS = tuple(f"foundry-lab-{n}" for n in range(int(os.environ.get("HUB_USERS", "3"))))
NOTEBOOKS = ("00", "01", "02")
SAMPLE = Path(__file__).parents[2] / "docs" / "jupyterhub_config.py"
TOKEN = secrets.token_hex(16)
START_S, RUN_S = 120.0, 900.0

LOOK_AROUND = """
import json, os
from pathlib import Path
from foundry_lab import engine
from foundry_lab.engine import paths
state = engine.service_status()
print(json.dumps({"pid": state.pid, "url": state.url, "home": str(paths.home()), "user": str(Path.home())}))
"""
READ_OTHERS = """
import json
from pathlib import Path
read = []
for name in NAMES:
    try:
        path = Path(name)
        read.append(sorted(map(str, path.iterdir())) if path.is_dir() else path.read_bytes() and name)
    except PermissionError:
        pass
print(json.dumps(read))
"""


def run_notebooks(names: tuple[str, ...]) -> str:
    return f"""
import subprocess, sys
from pathlib import Path
command = [sys.executable, "-m", "foundry_lab", "run", *{names!r}, "-o", str(Path.home() / "out")]
done = subprocess.run(command, capture_output=True, text=True)
from foundry_lab import engine
engine.ensure_service(progress=False)
import json
print(json.dumps({{"code": done.returncode, "words": done.stderr[-2000:]}}))
"""


# --- the machine ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[str, ...]]:
    """Users of the system, who are gone again after the tests."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make users")
    made = []
    try:
        for name in USERS:
            subprocess.run(["useradd", "--create-home", name], check=True)
            made.append(name)
            Path(pwd.getpwnam(name).pw_dir).chmod(0o700)
        reads = subprocess.run(["runuser", "-u", USERS[0], "--", sys.executable, "-c", "import foundry_lab"])
        if reads.returncode:
            pytest.skip(f"other users can't read {sys.prefix}: install the package where they can")
        yield tuple(made)
    finally:
        for name in made:
            subprocess.run(["pkill", "-KILL", "-u", name])
            subprocess.run(["userdel", "--remove", "--force", name], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the model, which everybody can read and only the owner can write."""
    from foundry_lab.engine import paths, prepare_model

    prepare_model(progress=False)
    shared = tmp_path_factory.mktemp("srv") / "models"
    shutil.copytree(paths.models_dir(), shared)
    for path in (shared, *shared.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in shared.parents[:3]:
        if parent.stat().st_uid == os.getuid() and parent != Path(parent.anchor):
            parent.chmod(parent.stat().st_mode | 0o011)
    return shared


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Hub:
    """A JupyterHub and the requests that the tests send it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def start(self, user: str) -> None:
        """Start a user's server; return when it answers."""
        await self._post(f"/hub/api/users/{user}")
        await self._post(f"/hub/api/users/{user}/server")
        async with asyncio.timeout(START_S):
            while not (await self._get(f"/hub/api/users/{user}"))["servers"].get("", {}).get("ready"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def run(self, user: str, code: str) -> Any:
        """Run code in a kernel of the user's; return the JSON that it prints."""
        kernel = (await self._post(f"/user/{user}/api/kernels"))["id"]
        message = uuid.uuid4().hex
        header = {
            "msg_id": message,
            "msg_type": "execute_request",
            "session": message,
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        printed: list[str] = []
        address = f"{self._url}/user/{user}/api/kernels/{kernel}/channels"
        async with asyncio.timeout(RUN_S), self._session.ws_connect(address, max_msg_size=0) as channel:
            await channel.send_json(
                {
                    "channel": "shell",
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                }
            )
            async for packet in channel:
                answer = json.loads(packet.data)
                if answer["parent_header"].get("msg_id") != message:
                    continue
                if answer["msg_type"] == "error":
                    raise AssertionError("\n".join(answer["content"]["traceback"]))
                if answer["msg_type"] == "stream":
                    printed.append(answer["content"]["text"])
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    break
        return json.loads("".join(printed).strip().splitlines()[-1])

    async def _post(self, path: str) -> Any:
        async with self._session.post(self._url + path, json={}) as reply:
            assert reply.status < 300 or reply.status == 409, f"{path}: {reply.status} {await reply.text()}"
            return await reply.json(content_type=None)

    async def _get(self, path: str) -> Any:
        async with self._session.get(self._url + path) as reply:
            reply.raise_for_status()
            return await reply.json()


@contextlib.asynccontextmanager
async def running_hub(folder: Path, models: Path) -> AsyncIterator[Hub]:
    """Run a hub with the sample's settings, on ports of its own."""
    port = free_port()
    config = folder / "config.py"
    config.write_text(
        f"load_subconfig({str(SAMPLE)!r})\n"
        f"c.JupyterHub.bind_url = 'http://127.0.0.1:{port}'\n"
        f"c.JupyterHub.hub_bind_url = 'http://127.0.0.1:{free_port()}'\n"
        f"c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{free_port()}'\n"
        "c.JupyterHub.authenticator_class = 'dummy'\n"
        "c.Authenticator.allow_all = True\n"
        f"c.JupyterHub.services = [{{'name': 'tests', 'api_token': {TOKEN!r}}}]\n"
        "c.JupyterHub.load_roles = [{'name': 'tests', 'services': ['tests'],\n"
        "    'scopes': ['admin:users', 'admin:servers', 'access:servers']}]\n"
    )
    environment = {**os.environ, "FOUNDRY_LAB_MODELS": str(models)}
    environment.pop("FOUNDRY_LAB_HOME", None)  # each user has his own
    log = (folder / "hub.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "jupyterhub",
        "-f",
        str(config),
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
    )
    headers = {"Authorization": f"token {TOKEN}"}
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as session:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(START_S):
                while not await _answers(session, f"{url}/hub/api/"):
                    assert process.returncode is None, (folder / "hub.log").read_text()
                    await asyncio.sleep(0.2)
            yield Hub(url, session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        log.close()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(url) as reply:
            return reply.status == 200
    return False


def memory_mib(user: str) -> float:
    """Return the memory of a user's processes, shared pages divided among those who share them (PSS)."""
    total = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.username() == user:
                total += process.memory_full_info().pss
    return total / 2**20


# --- the class --------------------------------------------------------------------------------------------


async def test_each_learner_has_a_service_files_and_secrets_of_his_own(
    users: tuple[str, ...], models: Path, tmp_path: Path
) -> None:
    async with running_hub(tmp_path, models) as hub:
        await asyncio.gather(*(hub.start(user) for user in users))
        at_rest = [memory_mib(user) for user in users]
        runs = await asyncio.gather(*(hub.run(user, run_notebooks(NOTEBOOKS)) for user in users))
        assert [(run["code"], run["words"] if run["code"] else "") for run in runs] == [(0, "")] * len(users)
        views = await asyncio.gather(*(hub.run(user, LOOK_AROUND) for user in users))
        at_work = [memory_mib(user) for user in users]

        assert len({view["url"] for view in views}) == len(users)
        assert [psutil.Process(view["pid"]).username() for view in views] == list(users)
        for user, own in zip(users, views, strict=True):
            others = [view for view in views if view is not own]
            private = [
                path
                for view in others
                for path in (
                    view["user"],
                    view["home"],
                    f"{view['home']}/run/state.json",
                    f"/proc/{view['pid']}/environ",
                )
            ]
            assert await hub.run(user, f"NAMES = {private!r}\n" + READ_OTHERS) == []
    print(f"\n{'user':16} {'at rest MiB':>12} {'at work MiB':>12}")
    for user, rest, work in zip(users, at_rest, at_work, strict=True):
        print(f"{user:16} {rest:12.0f} {work:12.0f}")
