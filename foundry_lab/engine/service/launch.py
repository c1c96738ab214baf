"""Starting the service process so that it outlives its parent, and reading why it failed."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from foundry_lab._ground.files import patiently
from foundry_lab.engine import paths
from foundry_lab.engine.service.state import note
from foundry_lab.errors import EngineError

SERVICE_MODULE = f"{__package__}.process"
FAILURE_MARK = "foundry-lab: "
"""Begins the log's line that tells why the process gave up."""
LOG_LINES = 8
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|COOKIE|AUTH", re.IGNORECASE)
"""Names of variables that the service has no use for; it lives longer than who started it."""


def log_file() -> Path:
    """Where the service process writes what it has to say."""
    return paths.run_dir() / "service.log"


def launch(*, public_catalog: bool) -> None:
    """Start the service process and note it as starting. The caller holds the lock.

    Raises:
        EngineError: it can't be started.
    """
    command = [sys.executable, "-m", SERVICE_MODULE, "--log-file", str(log_file())]
    if public_catalog:
        command.append("--public-catalog")
    try:
        if log_file().exists():  # the last service's is kept beside it
            patiently(log_file().replace, log_file().with_suffix(".log.1"))
        with log_file().open("wb") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=paths.home(),  # so that it holds nobody's working directory
                env=_environment(),
                **_detached(),
            )
    except OSError as error:
        raise EngineError(
            f"The service process can't be started: {error}. Look at `foundry-lab doctor`, then try again."
        ) from error
    # Reaps the child when it ends; it would stay as a zombie for as long as we live.
    threading.Thread(target=child.wait, name="foundry-lab-reaper", daemon=True).start()
    assert child.stdin is not None
    with contextlib.suppress(OSError, psutil.Error), child.stdin:  # it may have ended already
        note(child.pid, public_catalog=public_catalog)
        child.stdin.write(b"noted\n")  # only now may the child put its own note in the place of ours


def failure(what: str) -> EngineError:
    """Return the error to raise for a start that failed: what happened and what the log says about it."""
    try:
        lines = log_file().read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in reversed(lines):
        if line.startswith(FAILURE_MARK):
            return EngineError(line.removeprefix(FAILURE_MARK))
    said = "\n".join(["", *lines[-LOG_LINES:]]) if lines else " nothing."
    return EngineError(
        f"{what} Check this machine with `foundry-lab doctor`. Its log, {log_file()}, ends with:{said}"
    )


def _environment() -> dict[str, str]:
    """Return the child's environment: ours without secrets, and what leads to the same home and package."""
    environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    # The log is read as it grows, and as UTF-8.
    environment |= {"FOUNDRY_LAB_HOME": str(paths.home()), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    if shared := paths.shared_models():  # which may be relative to a working directory that isn't the child's
        environment[paths.SHARED_VARIABLE] = str(shared)
    package_root = Path(__file__).parents[3]
    if package_root.name not in ("site-packages", "dist-packages"):  # a checkout may be found by chance only
        path = [str(package_root), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return environment


def _detached() -> dict[str, Any]:
    """Return what keeps the child alive when the parent's terminal, process group or console goes."""
    if sys.platform == "win32":
        # With DETACHED_PROCESS, the python.exe of a virtual environment, which starts the real one, has no
        # console to pass on, and Windows opens a new one (https://github.com/python/cpython/issues/85785).
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
