"""The learner's own `foundry` command, if it is installed: is its service running?"""

import contextlib
import logging
import re
import shutil
import subprocess
import tempfile

import psutil

from foundry_lab.engine.service.probe import check_foundry_local
from foundry_lab.errors import FoundryError

log = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 3.0
_ADDRESS = re.compile(r"https?://(?:127\.0\.0\.1|localhost|\[::1\]):\d{1,5}\b", re.IGNORECASE)


def parse_endpoint(output: str) -> str | None:
    """Return the service's base URL out of what `foundry service status` or `start` prints.

    Two lines of the command, as its users quote them:
    `Service is Started on http://127.0.0.1:50920/, PID 78399!` and
    `Model management service is running on http://127.0.0.1:50920/openai/status`.
    """
    found = _ADDRESS.search(output)
    return found.group().lower() if found else None


def running_endpoint() -> str | None:
    """Return the base URL of the service that the `foundry` command runs, or None if there is none."""
    command = shutil.which("foundry")
    endpoint = parse_endpoint(_status(command)) if command else None
    if endpoint:
        with contextlib.suppress(FoundryError):  # another program may have its port by now
            check_foundry_local(endpoint)
            return endpoint
    return None


def _status(command: str) -> str:
    """Return what `foundry service status` prints within the time limit; after that it is killed."""
    # A file, not a pipe: reading a pipe would wait for grandchildren that keep it open.
    with tempfile.TemporaryFile() as output:
        try:
            ask = [command, "service", "status"]
            child = psutil.Popen(ask, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            log.warning("The foundry command %s can't be run: %s", command, error)
            return ""
        try:
            child.wait(STATUS_TIMEOUT_S)
        except psutil.TimeoutExpired:
            log.warning(
                "The foundry command didn't answer within %g s; going on without it.", STATUS_TIMEOUT_S
            )
        finally:
            _kill_tree(child)
        output.seek(0)
        return output.read().decode("utf-8", "replace")


def _kill_tree(child: psutil.Popen) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended by itself
        for process in (*child.children(recursive=True), child):
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.wait()
