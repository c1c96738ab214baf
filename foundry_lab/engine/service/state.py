"""The note that says where the lab's service runs: written atomically, readable by its owner alone."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import msgspec
import psutil

from foundry_lab._ground.files import patiently
from foundry_lab.engine import paths
from foundry_lab.engine.service.probe import answering_pid
from foundry_lab.errors import EngineError

log = logging.getLogger(__name__)

CLOCK_TOLERANCE_S = 2.0
"""psutil reckons a start time from the boot time, which shifts by a little when the clock is set."""


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A lab service, starting or ready.

    Attributes:
        pid: its process.
        create_time: when that process started, seconds since the epoch by psutil; tells it from a later
            process of the same pid.
        url: base URL of the web service without a trailing slash; empty while it starts.
        control_url: base URL of the control routes; empty while it starts.
        control_token: bearer token for the control routes; never shown.
        versions: versions of Python, foundry-lab, foundry-local-sdk, onnxruntime, onnxruntime-genai-core.
        model_id: id of the model loaded at the start.
        alias: its alias.
        log_file: where the process writes what it has to say; empty if that is a terminal.
        public_catalog: whether Microsoft's catalog is served as well.
    """

    pid: int
    create_time: float
    url: str = ""
    control_url: str = ""
    control_token: str = ""
    versions: dict[str, str] = {}
    model_id: str = ""
    alias: str = ""
    log_file: str = ""
    public_catalog: bool = False

    def __repr__(self) -> str:
        where = self.url or "starting"
        return f"ServiceState(pid={self.pid}, url={where!r}, model_id={self.model_id!r})"

    @property
    def ready(self) -> bool:
        """Whether the service has said that it takes requests."""
        return bool(self.url)


def state_file() -> Path:
    """Where the note lies."""
    return paths.run_dir() / "state.json"


def make_run_dir() -> Path:
    """Return the run directory, made if need be, closed to other users.

    Raises:
        EngineError: it can't be made or isn't ours.
    """
    folder = paths.run_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise EngineError(
            f"The folder {folder} can't be used: {error.strerror}. "
            "Make it writable for you, or set FOUNDRY_LAB_HOME to a folder that is."
        ) from error
    return folder


def write_state(state: ServiceState) -> None:
    """Put the note in place in one step, so that nobody ever reads half of it.

    Raises:
        EngineError: it can't be written.
    """
    folder = make_run_dir()
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix="state-", suffix=".tmp")  # mkstemp makes it 0600
        temporary = Path(name)
        try:
            os.close(handle)
            temporary.write_bytes(msgspec.json.encode(state))
            patiently(temporary.replace, state_file())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EngineError(
            f"The service's state can't be written to {folder}: {error.strerror}. "
            "Free some disk space or make the folder writable, then try again."
        ) from error


def read_state() -> ServiceState | None:
    """Return the note, or None if there is none that can be understood.

    Raises:
        EngineError: there is one, and it may not be read.
    """
    file = state_file()
    try:
        return msgspec.json.decode(patiently(file.read_bytes), type=ServiceState)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("The state of the service, %s, is garbage (%s); going on without it.", file, error)
        return None
    except OSError as error:
        raise EngineError(
            f"The service's state {file} can't be read: {error.strerror}. If it belongs to another user, "
            "set FOUNDRY_LAB_HOME to a folder of your own."
        ) from error


def remove_state(pid: int) -> None:
    """Remove the note if it is about this process; a newer service's note stays."""
    state = read_state()
    if state is not None and state.pid == pid:
        discard_state()


def discard_state() -> None:
    """Remove the note, if there is one."""
    patiently(state_file().unlink, missing_ok=True)


def process_of(state: ServiceState) -> psutil.Process | None:
    """Return the state's process if it still runs: same pid, same start, and no zombie."""
    try:
        process = psutil.Process(state.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        same_start = abs(process.create_time() - state.create_time) <= CLOCK_TOLERANCE_S
    except (psutil.Error, ValueError, OverflowError):
        return None
    if same_start or (state.ready and answering_pid(state.url) == state.pid):
        return process
    return None


def live_state() -> ServiceState | None:
    """Return the state of the service that runs or starts; None if there is none or its process is gone."""
    state = read_state()
    return state if state is not None and process_of(state) is not None else None
