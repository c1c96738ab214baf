"""A class on a JupyterHub: several users of one machine, each with a service, files and secrets of his own.

Not part of the usual run: it makes users of the system and networks for them. It needs root on Linux, and all
that it uses where other users can read it:

    python3 -m venv /opt/hub && . /opt/hub/bin/activate && python -m pip install jupyterhub ".[test]"
    npm install -g configurable-http-proxy
    HUB_USERS=4 python -m pytest -m hub -s

The package is installed without -e, again after each change. The Python under the virtual environment must be
readable too: the system's is, one in root's home isn't. HUB_USERS is 2 if not set. It takes some minutes, and
prints what docs/teaching.md tells of memory and CPU time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
import pytest

pytestmark = pytest.mark.hub

USERS = tuple(f"foundry-lab-{n}" for n in range(int(os.environ.get("HUB_USERS", "2"))))
NOTEBOOKS = ("00", "01", "02")
SAMPLE = Path(__file__).parents[2] / "docs" / "jupyterhub_config.py"
BRIDGE, HUB = "lab", "10.77.0.1"  # as in the sample
TOKEN = secrets.token_hex(16)
START_S, RUN_S = 180.0, 1800.0
IDLE_S = 90.0
LOOK_S = 2.0

ACCOUNTS_ONLY = """
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.Spawner.environment = {}
c.Spawner.pre_spawn_hook = lambda spawner: setattr(spawner, "port", 20000 + spawner.user.id)
"""
"""A hub without the sample's settings: one network for all, a model and a service without end for each.

The hub would take a random port, which another program could have by the time that the server starts.
"""

# --- what learners' kernels run ---------------------------------------------------------------------------

COPY_MODEL = """
import shutil
from foundry_lab.engine import paths
paths.home().mkdir(mode=0o700, parents=True, exist_ok=True)
shutil.copytree({shared!r}, paths.model_cache())
print("null")
"""
FIRST = """
import json, os
from pathlib import Path
import matplotlib.pyplot
from foundry_lab import FoundryAPIClient
from foundry_lab.exercises import progress
progress.keep("0.1", 1.0)
careless = Path.home() / "careless.txt"
careless.write_text(os.environ["JUPYTERHUB_API_TOKEN"])
careless.chmod(0o644)
print("null")
"""
"""Progress before there ever was a service, and a secret that the learner himself leaves open."""
RUN = """
import resource, subprocess, sys
from foundry_lab import engine
engine.ensure_service(progress=False)
command = ["foundry-lab", "run", *{names!r}, "-o", str(Path.home() / "out")]
done = subprocess.run(command, capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_s = used.ru_utime + used.ru_stime
print(json.dumps({{"code": done.returncode, "words": done.stderr[-2000:], "cpu_s": cpu_s}}))
"""
LOOK = """
from foundry_lab.engine import paths
client = FoundryAPIClient()
await client.health_check()
state = engine.service_status()
made = [path for path in (Path.home() / "out").rglob("*") if path.is_file()]
print(json.dumps({
    "pid": state.pid, "url": state.url, "control_url": state.control_url, "home": str(paths.home()),
    "model": str(paths.model_dir()), "user_home": str(Path.home()), "careless": str(careless),
    "secrets": [state.control_token, os.environ["JUPYTERHUB_API_TOKEN"]],
    "made": sorted(path.name for path in made), "made_by": sorted({path.owner() for path in made}),
    "progress": progress.points(),
}))
"""
SNOOP = """
import requests, sys, subprocess
found, telling, answers = [], [], []
with requests.Session() as session:
    session.trust_env = False
    for url in (f"{OTHER['url']}/v1/models", f"{OTHER['control_url']}/control/models"):
        for headers in ({}, {"Authorization": f"Bearer {OWN['secrets'][0]}"}):
            try:
                answer = session.get(url, headers=headers, timeout=10)
                answers.append(answer.status_code)
            except requests.ConnectionError:
                answers.append("nobody there")
open_to_all = ["/tmp", "/var/tmp", "/dev/shm", "/run", f"/proc/{OTHER['pid']}"]
for top in [OTHER["user_home"], *open_to_all]:
    for folder, inner, names in os.walk(top):
        for file in (Path(folder, name) for name in names):
            try:
                if file.is_file() and file.stat().st_uid == OTHER["uid"]:
                    text = file.read_bytes()[:10_000_000]
                    found.append(str(file))
                    if any(secret.encode() in text for secret in OTHER["secrets"]):
                        telling.append(str(file))
            except OSError:
                pass
def attempt(code):
    environment = {**os.environ, "FOUNDRY_LAB_HOME": OTHER["home"]}
    done = subprocess.run([sys.executable, "-c", f"from foundry_lab import engine; {code}"],
                          env=environment, capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or ["did it"])[-1]
print(json.dumps({
    "found": found, "telling": telling, "answers": answers,
    "status": attempt("engine.service_status()"), "stop": attempt("engine.stop_service()"),
    "borrow": attempt("engine.ensure_service(progress=False)"),
}))
"""
"""What one learner finds out about another whose addresses he knows: more than he could."""
ASK = """
import time
began = time.monotonic()
answer = await client.complete("Say hello.", max_tokens=8)
took_s = time.monotonic() - began
print(json.dumps({"pid": engine.service_status().pid, "content": answer.content, "took_s": took_s}))
"""
"""Asked by the client of a notebook that was open when the service ended."""


# --- the machine ------------------------------------------------------------------------------------------


@pytest.fixture
def users() -> Iterator[tuple[str, ...]]:
    """Users of the system, whose homes others may read, as many systems make them; gone after the test."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make users")
    made = []
    try:
        for name in USERS:
            subprocess.run(["useradd", "--create-home", name], check=True)
            made.append(name)
            Path(pwd.getpwnam(name).pw_dir).chmod(0o755)
        reads = [sys.executable, "-P", "-c", "import foundry_lab, jupyterhub.singleuser"]
        if subprocess.run(["runuser", "-u", USERS[0], "--", *reads]).returncode:
            pytest.skip(f"other users can't read {sys.prefix}: install the package where they can")
        yield tuple(made)
    finally:
        for name in made:
            network = f"lab{pwd.getpwnam(name).pw_uid}"
            for command in (
                ["pkill", "-KILL", "-u", name],
                ["ip", "netns", "del", network],
                ["userdel", "--remove", "--force", name],
            ):
                subprocess.run(command, stderr=subprocess.DEVNULL)


@pytest.fixture
def bridge() -> Iterator[None]:
    """The network that the sample wants the administrator to make."""
    if Path("/sys/class/net", BRIDGE).exists():
        pytest.skip(f"there is a network {BRIDGE}: a hub of yours may be using it")
    try:
        for command in (
            f"link add {BRIDGE} type bridge",
            f"addr add {HUB}/16 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ):
            if subprocess.run(["ip", *command.split()]).returncode:
                pytest.skip("this machine lets nobody make networks")
        yield
    finally:
        subprocess.run(["ip", "link", "del", BRIDGE], stderr=subprocess.DEVNULL)


@pytest.fixture
def models() -> Iterator[Path]:
    """One copy of the model, which everybody can read and only the owner can write."""
    from foundry_lab.engine import paths, prepare_model

    prepare_model(progress=False)
    public = Path(tempfile.mkdtemp())  # below pytest's own folders nobody else may read
    try:
        shared = public / "models"
        shutil.copytree(paths.model_cache(), shared)
        for path in (public, shared, *shared.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield shared
    finally:
        shutil.rmtree(public)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Hub:
    """A JupyterHub and the requests that the tests send it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session
        self._kernels: dict[str, str] = {}

    async def start(self, user: str) -> None:
        """Start a user's server and one kernel, as for an open notebook; return when it answers."""
        await self._post(f"/hub/api/users/{user}")
        await self._post(f"/hub/api/users/{user}/server")
        async with asyncio.timeout(START_S):
            while not (await self._get(f"/hub/api/users/{user}"))["servers"].get("", {}).get("ready"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        self._kernels[user] = (await self._post(f"/user/{user}/api/kernels"))["id"]

    async def run(self, user: str, code: str) -> Any:
        """Run code in the user's kernel; return the JSON that it prints last."""
        message = uuid.uuid4().hex
        header = {
            "msg_id": message,
            "msg_type": "execute_request",
            "session": message,
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        request = {
            "channel": "shell",
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
        }
        printed: list[str] = []
        address = f"{self._url}/user/{user}/api/kernels/{self._kernels[user]}/channels"
        async with asyncio.timeout(RUN_S), self._session.ws_connect(address, max_msg_size=0) as channel:
            await channel.send_json(request)
            async for packet in channel:
                answer = json.loads(packet.data)
                if answer["parent_header"].get("msg_id") != message:
                    continue
                if answer["msg_type"] == "error":
                    raise AssertionError("\n".join(answer["content"]["traceback"]))
                if answer["msg_type"] == "stream" and answer["content"]["name"] == "stdout":
                    printed.append(answer["content"]["text"])
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    break
        return json.loads("".join(printed).strip().splitlines()[-1])

    async def status_for(self, user: str, token: str) -> int:
        """Return how the user's server answers somebody who has this token of the hub's."""
        headers = {"Authorization": f"token {token}"}
        async with self._session.get(f"{self._url}/user/{user}/api/kernels", headers=headers) as reply:
            return reply.status

    async def _post(self, path: str) -> Any:
        async with self._session.post(self._url + path, json={}) as reply:
            assert reply.status < 300 or reply.status == 409, f"{path}: {reply.status} {await reply.text()}"
            return await reply.json(content_type=None)

    async def _get(self, path: str) -> Any:
        async with self._session.get(self._url + path) as reply:
            reply.raise_for_status()
            return await reply.json()


@contextlib.asynccontextmanager
async def running_hub(folder: Path, settings: str) -> AsyncIterator[Hub]:
    """Run a hub with the sample's settings and some more, on ports of its own."""
    port = free_port()
    config = folder / "config.py"
    config.write_text(
        f"load_subconfig({str(SAMPLE)!r})\n"
        f"c.JupyterHub.bind_url = 'http://127.0.0.1:{port}'\n"
        f"c.JupyterHub.hub_bind_url = 'http://{HUB}:{free_port()}'\n"
        f"c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{free_port()}'\n"
        "c.JupyterHub.authenticator_class = 'dummy'\n"
        "c.Authenticator.allow_all = True\n"
        f"c.JupyterHub.services = [{{'name': 'tests', 'api_token': {TOKEN!r}}}]\n"
        "c.JupyterHub.load_roles = [{'name': 'tests', 'services': ['tests'],\n"
        "    'scopes': ['admin:users', 'admin:servers', 'access:servers']}]\n" + settings
    )
    log = (folder / "hub.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "jupyterhub", "-f", str(config), cwd=folder, stdout=log, stderr=log
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
    except BaseException:
        print((folder / "hub.log").read_text()[-20_000:])  # pytest shows it under the failure
        raise
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


# --- what it takes ----------------------------------------------------------------------------------------


def memory_mib(users: tuple[str, ...]) -> dict[str, float]:
    """Return the memory of each user's processes, shared pages divided among those who share them (PSS)."""
    total = dict.fromkeys(users, 0.0)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (name := process.username()) in total:
                total[name] += process.memory_full_info().pss / 2**20
    return total


@contextlib.asynccontextmanager
async def highest_memory(users: tuple[str, ...]) -> AsyncIterator[dict[str, float]]:
    """Look at the memory every other second; fill in the highest of each user."""
    highest = dict.fromkeys(users, 0.0)

    async def look_on() -> None:
        while True:
            for name, now in (await asyncio.to_thread(memory_mib, users)).items():
                highest[name] = max(highest[name], now)
            await asyncio.sleep(LOOK_S)

    looking = asyncio.create_task(look_on())
    try:
        yield highest
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def network_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


class Row(NamedTuple):
    """A line of the table, for each user a figure."""

    what: str
    by_user: list[float]


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}, {len(USERS)} users")
    for row in rows:
        mean = sum(row.by_user) / len(row.by_user)
        print(f"  {row.what:47} {mean:6.0f} a user   {' '.join(f'{value:.0f}' for value in row.by_user)}")


# --- the class --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", ["network", "container"])
def test_every_setting_of_the_sample_is_one_of_jupyterhubs(apart: str, tmp_path: Path) -> None:
    """JupyterHub only warns of one that it doesn't know."""
    from jupyterhub.app import JupyterHub
    from jupyterhub.auth import LocalAuthenticator
    from jupyterhub.spawner import Spawner
    from traitlets.config import PyFileConfigLoader

    known: list[Any] = [JupyterHub, LocalAuthenticator, Spawner]
    if apart == "container":
        known.append(pytest.importorskip("dockerspawner").DockerSpawner)
    file = tmp_path / "config.py"
    file.write_text(SAMPLE.read_text().replace('APART = "network"', f'APART = "{apart}"'))
    config = PyFileConfigLoader(str(file)).load_config()
    traits = {each.__name__: each.class_traits(config=True) for each in known}
    assert set(config) == set(traits)
    for section, settings in config.items():
        assert set(settings) <= set(traits[section])
    assert ("DockerSpawner" in config) == (apart == "container")


async def test_the_sample_gives_each_learner_a_service_files_and_secrets_of_his_own(
    users: tuple[str, ...], bridge: None, models: Path, tmp_path: Path
) -> None:
    settings = (
        f"c.Spawner.environment['FOUNDRY_LAB_MODELS'] = {str(models)!r}\n"
        f"c.Spawner.environment['FOUNDRY_LAB_IDLE_STOP'] = '{IDLE_S:.0f}'\n"
    )
    async with running_hub(tmp_path, settings) as hub:
        views, rows = await hold_class(hub, users)
        assert {Path(view["model"]).parents[1] for view in views} == {models}
        before = [view["pid"] for view in views]
        assert len({network_of(pid) for pid in (os.getpid(), *before)}) == len(users) + 1
        for snooped in await snoop(hub, users, views):
            assert snooped["answers"] == ["nobody there"] * 4

        async with asyncio.timeout(IDLE_S + 60.0):
            while any(psutil.pid_exists(pid) for pid in before):  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        rows.append(Row("MiB at rest, the service ended for want of work", [*memory_mib(users).values()]))
        answers = await asyncio.gather(*(hub.run(user, ASK) for user in users))
        assert all(answer["content"] for answer in answers)
        assert not {answer["pid"] for answer in answers} & set(before)
        waits = [answer["took_s"] for answer in answers]
        rows.append(Row("s until the service came back and answered", waits))
    show("shared model, idle stop", rows)


async def test_accounts_alone_keep_files_and_secrets_apart(
    users: tuple[str, ...], bridge: None, models: Path, tmp_path: Path
) -> None:
    """Without the sample's networks the service's port is open to all, but nothing that they could read."""
    async with running_hub(tmp_path, ACCOUNTS_ONLY) as hub:
        views, rows = await hold_class(hub, users, COPY_MODEL.format(shared=str(models)))
        assert len({view["url"] for view in views}) == len(users)
        assert len({view["model"] for view in views}) == len(users)
        for snooped in await snoop(hub, users, views):
            assert snooped["answers"] == [200, 200, 401, 401], "only the control routes want a token"
    show("own model, no idle stop", rows)


async def hold_class(hub: Hub, users: tuple[str, ...], prepare: str = "") -> tuple[list[Any], list[Row]]:
    """Have everybody run the notebooks at the same time; return what each sees then, and what it took."""
    await asyncio.gather(*(hub.start(user) for user in users))
    if prepare:
        await asyncio.gather(*(hub.run(user, prepare) for user in users))
    await asyncio.gather(*(hub.run(user, FIRST) for user in users))
    rows = [Row("MiB, a notebook open, no service yet", [*memory_mib(users).values()])]
    async with highest_memory(users) as highest:
        runs = await asyncio.gather(*(hub.run(user, RUN.format(names=NOTEBOOKS)) for user in users))
    assert [(run["code"], run["words"] if run["code"] else "") for run in runs] == [(0, "")] * len(users)
    rows.append(Row("MiB at work, the highest", [*highest.values()]))
    rows.append(Row("MiB at rest, the service waiting", [*memory_mib(users).values()]))

    views = await asyncio.gather(*(hub.run(user, LOOK) for user in users))
    services = [psutil.Process(view["pid"]) for view in views]
    assert [service.username() for service in services] == list(users)
    for user, view in zip(users, views, strict=True):
        view["uid"] = pwd.getpwnam(user).pw_uid
        assert view["made_by"] == [user]
        assert {name[:2] for name in view["made"]} >= set(NOTEBOOKS)
        assert view["progress"] == {"0.1": 1.0}
    rows.append(Row("s of CPU, the notebooks", [run["cpu_s"] for run in runs]))
    rows.append(Row("s of CPU, the service", [sum(service.cpu_times()[:2]) for service in services]))
    return views, rows


async def snoop(hub: Hub, users: tuple[str, ...], views: list[Any]) -> list[Any]:
    """Let everybody try to get at everybody else's; return what came of it."""

    async def try_all(user: str, own: Any, other: str, view: Any) -> Any:
        snooped = await hub.run(user, f"OWN, OTHER = {own!r}, {view!r}\n{SNOOP}")
        assert snooped["telling"] == [view["careless"]], "only what a learner left open himself"
        closed = (view["home"], f"/proc/{view['pid']}/environ")
        assert not [file for file in snooped["found"] if file.startswith(closed)]
        assert not [file for file in snooped["found"] if not file.startswith((view["user_home"], "/proc"))]
        for attempt in ("status", "stop", "borrow"):
            assert snooped[attempt].startswith("foundry_lab.errors.EngineError: "), snooped[attempt]
        assert psutil.Process(view["pid"]).username() == other
        assert await hub.status_for(other, own["secrets"][1]) == 403
        assert await hub.status_for(user, own["secrets"][1]) == 200
        return snooped

    pairs = itertools.permutations(zip(users, views, strict=True), 2)
    return await asyncio.gather(*(try_all(*reader, *owner) for reader, owner in pairs))
