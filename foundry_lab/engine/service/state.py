"""The note that says where the lab's service runs: written atomically, readable by its owner alone."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from foundry_lab._ground.files import patiently, write_whole
from foundry_lab.engine import paths
from foundry_lab.engine.private import check, own_folder, using_home

TOLERANCE_S = 0.0 if sys.platform == "linux" else 2.0
"""Where psutil reckons a start time from the boot time, it shifts by a little when the clock is set."""


End = Literal["idle", "shut down"]
"""Why a service ended that the lab didn't stop."""


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A lab service: starting, ready, or ended by itself.

    Attributes:
        pid: its process.
        create_time: when that process started, see `started_at`; tells it from a later one of the same pid.
        url: base URL of the web service without a trailing slash; empty while it starts.
        control_url: base URL of the control routes; empty while it starts.
        control_token: bearer token for the control routes; never shown.
        versions: versions of Python, foundry-lab, foundry-local-sdk, onnxruntime, onnxruntime-genai-core.
        model_id: id of the model loaded at the start.
        alias: its alias.
        log_file: where the process writes what it has to say; empty if that is a terminal.
        public_catalog: whether Microsoft's catalog is served as well.
        ended: why it ended, if the lab didn't ask for it; the note stays until another service starts.
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
    ended: End | None = None

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


def write_state(state: ServiceState) -> None:
    """Put the note in place in one step, so that nobody ever reads half of it.

    Raises:
        EngineError: it can't be written.
    """
    own_folder(paths.run_dir())
    with using_home():
        write_whole(state_file(), msgspec.json.encode(state), private=True)


def note(pid: int, **known: Any) -> ServiceState:
    """Put a note about the process with this number in place, and return it.

    Raises:
        psutil.Error, OSError: it has ended.
        EngineError: it can't be written.
    """
    state = ServiceState(pid=pid, create_time=started_at(pid), **known)
    write_state(state)
    return state


def read_state() -> ServiceState | None:
    """Return the note, or None if there is none that can be understood.

    Raises:
        EngineError: there is one, and it may not be read, or others could have written it.
    """
    file = state_file()
    with using_home():
        try:
            for path in (paths.home(), paths.run_dir(), file):
                check(path)
            return msgspec.json.decode(patiently(file.read_bytes), type=ServiceState)
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return None  # none there; or no JSON, no UTF-8, or too deep


def remove_state(pid: int) -> None:
    """Remove the note if it is about this process; a newer service's stays, and one that tells of an end."""
    if (state := read_state()) and state.pid == pid and state.ended is None:
        patiently(state_file().unlink, missing_ok=True)


def started_at(pid: int) -> float:
    """Return when a process started: in seconds since the epoch, by psutil.

    On Linux it is in ticks from the machine's boot, which no setting of the clock moves.

    Raises:
        psutil.Error, OSError: it has ended.
    """
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])


def process_of(state: ServiceState) -> psutil.Process | None:
    """Return the state's process if it still runs: same pid, same start, this user's, and no zombie.

    One that we may not look at isn't ours.
    """
    try:
        process = psutil.Process(state.pid)
        ours = sys.platform == "win32" or process.uids().real == os.getuid()
        same = abs(started_at(state.pid) - state.create_time) <= TOLERANCE_S
        return process if ours and same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def live_state() -> ServiceState | None:
    """Return the state of the service that runs or starts; None if there is none or its process is gone."""
    state = read_state()
    return state if state is not None and state.ended is None and process_of(state) is not None else None


def ended(how: End) -> ServiceState | None:
    """Return the state of this home's last service if it ended so; None if not, or it had no time to say."""
    state = read_state()
    return state if state is not None and state.ended == how else None
