"""`foundry-lab doctor`: what on this machine could stop the workbook, and what to do about each."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from foundry_lab import engine
from foundry_lab.config import Settings
from foundry_lab.engine import paths, private
from foundry_lab.engine.model.genai import thread_count
from foundry_lab.engine.service import native, probe
from foundry_lab.engine.service.discovery import SHUT_DOWN
from foundry_lab.engine.service.idle import idle_stop_s
from foundry_lab.engine.service.state import ended
from foundry_lab.errors import FoundryError

RUNTIME_PLATFORMS = {"Linux x86_64", "Linux aarch64", "Windows AMD64", "Darwin arm64"}
PREPARE_MIB = 1200  # measured: memory of the conversion at its peak
SERVE_MIB = 800  # measured: memory of the service with its model
DISK_MIB = 600  # wheel, model file and converted model together
FIRST_USER, NOBODY = (500 if sys.platform == "darwin" else 1000), 65534  # numbers of people's accounts
LINUX = sys.platform == "linux"
OWN_NETWORK = "unshare -Urn sh -c 'ip link set lo up; exec foundry-lab run'"
FIREWALL = (
    "sudo nft 'table inet foundry_lab { chain loopback { type filter hook output priority 0; oif lo "
    f"tcp dport 41001 meta skuid != {{ 0, {os.getuid() if sys.platform != 'win32' else 0} }} reject; }}; }}'"
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Check(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        name: what was looked at.
        status: "ok", "warn" (works, or may, with a restriction) or "fail".
        found: what is there.
        advice: what to do; empty when there is nothing to do.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def run_checks() -> list[Check]:
    """Look at everything. A check that breaks is a finding too, never an exception."""
    return [_guarded(check) for check in CHECKS]


def _guarded(check: Callable[[], Check]) -> Check:
    name = check.__name__.removeprefix("_check_").replace("_", " ")
    try:
        return check()
    except FoundryError as error:
        found, _, advice = str(error).rpartition(". ")  # the last sentence of an error says what to do
        return Check(name, "fail", found, advice) if found else Check(name, "fail", advice)
    except subprocess.TimeoutExpired as error:
        return Check(name, "fail", f"no result within {error.timeout:g} s", "Try again.")
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}", "Please report this.")


def _check_python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if (3, 11) <= sys.version_info[:2] <= (3, 14):  # foundry-local-sdk has wheels for these
        return Check("python", "ok", found)
    advice = "Install Python 3.11 to 3.14 and make a new virtual environment with it."
    return Check("python", "fail", found, advice)


def _check_platform() -> Check:
    found = f"{platform.system()} {platform.machine()}"
    if found in RUNTIME_PLATFORMS:
        return Check("platform", "ok", found)
    advice = (
        "The Python package has no Foundry Local runtime for it, so the embedded service can't start. "
        "Set FOUNDRY_ENDPOINT to a Foundry Local service on another machine."
    )
    return Check("platform", "warn", found, advice)


def _check_packages() -> Check:
    """Ask pip whether what is installed fits together."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return Check("packages", "ok", done.stdout.strip())
    if "No module named pip" in done.stderr:
        return Check("packages", "warn", "not checked: this Python has no pip", "python -m ensurepip")
    problems = done.stdout.splitlines() or done.stderr.splitlines()[-1:]
    ours = [line for line in problems if line.startswith("foundry-lab ")]
    if ours:
        advice = "python -m pip install --force-reinstall foundry-lab"
        return Check("packages", "fail", " ".join(ours), advice)
    return Check("packages", "warn", " ".join(problems), "Other packages of this environment; see pip check")


def _check_runtime() -> Check:
    """Load the SDK in a process of its own: its native libraries may be unable to load, or worse."""
    code = f"import foundry_local_sdk as sdk, {native.MODULE}; print(sdk.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return Check("runtime", "ok", f"foundry-local-sdk {done.stdout.strip()}")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Check("runtime", "fail", last, native.remedy(done.stderr))


def _check_kernel() -> Check:
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager

    command = KernelSpecManager().get_kernel_spec(NATIVE_KERNEL_NAME).argv[0]
    if Path(command).name == command or Path(command).absolute() == Path(sys.executable):
        return Check("kernel", "ok", "JupyterLab's python3 kernel is this Python")
    advice = "Open the notebooks with `foundry-lab lab`, which uses this Python all the same."
    return Check("kernel", "warn", f"the kernel registered as python3 is {command}", advice)


def _check_settings() -> Check:
    Settings()
    idle_stop_s()
    thread_count()
    names = sorted(name for name in os.environ if name.startswith("FOUNDRY_"))
    return Check("settings", "ok", ", ".join(names) + " set" if names else "all defaults")


def _check_proxy() -> Check:
    names = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    if not names:
        return Check("proxy", "ok", "none set")
    past = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    if {"*", "127.0.0.1"} & {host.strip() for host in past.split(",")}:
        return Check("proxy", "ok", f"{', '.join(names)} set, 127.0.0.1 excepted by NO_PROXY")
    advice = (
        "foundry_lab goes past it to this machine's own services; other tools, such as curl or requests.get, "
        "need NO_PROXY=127.0.0.1,localhost"
    )
    return Check("proxy", "warn", f"{', '.join(names)} set (values not shown)", advice)


def _check_home() -> Check:
    home = paths.home()
    try:
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except PermissionError:  # Python 3.14 gives the folder that is closed
        usable = False
    if not usable:
        return Check("home", "fail", f"{home} can't be written", "Set FOUNDRY_LAB_HOME to a folder that can.")
    if home.exists():
        private.check(home)
    free = psutil.disk_usage(str(there)).free // 2**20
    found = f"{home}, {free:,} MiB free"
    if free >= DISK_MIB or _is_prepared():
        return Check("home", "ok", found)
    advice = f"Preparing the model takes {DISK_MIB} MiB: free some, or set FOUNDRY_LAB_HOME to another disk."
    return Check("home", "fail", found, advice)


def _check_memory() -> Check:
    free = psutil.virtual_memory().available // 2**20
    needed, what = (SERVE_MIB, "The service") if _is_prepared() else (PREPARE_MIB, "Preparing the model")
    found = f"{free:,} MiB available"
    if free >= needed or engine.service_status():
        return Check("memory", "ok", found)
    return Check("memory", "warn", found, f"{what} takes {needed} MiB: close other programs.")


def _is_prepared() -> bool:
    return any(model.problem is None for model in engine.prepared_models())


def _check_loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), 5).close()
        return Check("loopback", "ok", "127.0.0.1 accepts connections")
    except OSError as error:
        advice = "Let this Python accept connections on 127.0.0.1: look at the firewall or security software."
        return Check("loopback", "fail", f"127.0.0.1 can't be used: {error}", advice)


def _check_model() -> Check:
    models = engine.prepared_models(full=True)
    shared = paths.shared_models()
    damaged = [model for model in models if model.problem]
    if damaged:
        found = "; ".join(f"{model.alias}: {model.problem}" for model in damaged)
        advice = "Make it anew: foundry-lab model prepare --force"
        return Check("model", "fail", found, f"Tell who looks after {shared}" if shared else advice)
    if models:
        private.check_model()
        found = ", ".join(f"{model.alias} ({model.size_bytes / 2**20:.0f} MiB)" for model in models)
        return Check("model", "ok", f"{found} in {paths.model_cache()}{', only read here' if shared else ''}")
    if Settings().endpoint:
        return Check("model", "ok", "none prepared, and none needed: FOUNDRY_ENDPOINT is set")
    if shared:
        advice = f"Ask who looks after {shared}, or unset FOUNDRY_LAB_MODELS to have one of your own."
        return Check("model", "fail", f"FOUNDRY_LAB_MODELS names {shared}, where there is none", advice)
    advice = (
        "The first run downloads 93 MB. Now: foundry-lab model prepare. Without internet, on a machine that "
        "has it: foundry-lab model export FILE, and here: foundry-lab model import FILE"
    )
    return Check("model", "warn", "not prepared yet", advice)


def _check_service() -> Check:
    if attached := Settings().endpoint:
        probe.check_foundry_local(attached)
        return Check("service", "ok", f"{attached} answers (FOUNDRY_ENDPOINT)")
    state = engine.service_status()
    if state is None:
        before = f"; the last one was {SHUT_DOWN}" if ended("shut down") else ""
        return Check("service", "ok", f"not running{before}; it starts when it is needed")
    if probe.answering_pid(state.url) is not None:
        return Check("service", "ok", f"{state.url} answers, process {state.pid}")
    advice = f"Stop it with foundry-lab stop; the next call starts a new one. Its log: {state.log_file}"
    return Check("service", "fail", f"process {state.pid} runs, but {state.url} doesn't answer", advice)


def _check_other_users() -> Check:
    """Tell who else could use the service: it asks nobody who he is."""
    others = sorted(_other_users())
    if not others and "JUPYTERHUB_USER" not in os.environ:
        return Check("other users", "ok", "nobody else is at work on this machine")
    names = ", ".join(others[:3]) + (" and others" if len(others) > 3 else "")
    found = f"this machine is shared{' with ' + names if names else ': JupyterHub'}"
    advice = (
        "They can't read your prompts, but Foundry Local asks nobody who he is: they can have your service "
        "generate, unload its model or shut it down. A container for each user prevents that"
        + (f"; or {OWN_NETWORK} ; or, with foundry-lab serve --port 41001: {FIREWALL}" if LINUX else ".")
    )
    return Check("other users", "warn", found, advice)


def _other_users() -> set[str]:
    """Return the people who are logged in or have processes here, but for this one."""
    names = {user.name for user in psutil.users()}
    if sys.platform != "win32":
        for process in psutil.process_iter(["uids", "username"]):
            if (uids := process.info["uids"]) and FIRST_USER <= uids.real < NOBODY:
                names.add(process.info["username"])
    return names - {psutil.Process().username().rpartition("\\")[2]}


CHECKS: list[Callable[[], Check]] = [act for name, act in globals().items() if name.startswith("_check_")]
"""All of the above, in their order."""
