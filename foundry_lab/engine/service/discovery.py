"""Finding the service, starting the embedded one where there is none, and stopping it."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import psutil

from foundry_lab._ground.checks import check_kind, check_seconds, is_whole
from foundry_lab.config import Settings
from foundry_lab.engine.model.genai import thread_count
from foundry_lab.engine.model.prepare import prepare_model
from foundry_lab.engine.private import locked
from foundry_lab.engine.service import foundry_cli, probe
from foundry_lab.engine.service.idle import idle_stop_s
from foundry_lab.engine.service.launch import failure, launch
from foundry_lab.engine.service.state import ServiceState, ended, live_state, note, process_of, remove_state
from foundry_lab.errors import ConfigurationError, EngineError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 90.0
"""From the start of the process to the first answer; 2 s on a two-core machine, more from a slow disk."""
LOCK_TIMEOUT_S = START_TIMEOUT_S + 30.0
"""Longer than any start or stop takes."""
POLL_S = 0.05
SHUT_DOWN = "shut down by a POST to its /shutdown, which any program on this machine can send"


def ensure_service(settings: Settings | None = None, *, progress: bool = True) -> str:
    """Return the base URL of a service that answers, without a trailing slash; start one if need be.

    Looked for in this order: the endpoint of the settings (FOUNDRY_ENDPOINT), the lab's own service, the
    service of an installed `foundry` command; with none of them the embedded service is started, in a process
    of its own that outlives this one. Called at once from several processes, it starts one.

    Args:
        settings: read from the environment if not given.
        progress: say on stderr what takes time, and what is odd; else the log says the second.

    Raises:
        EngineError: the endpoint is no Foundry Local service, or the embedded service doesn't start.
        ServiceUnavailableError: an endpoint was given and nobody answers there.
        ConfigurationError: a bad value in the environment, or `settings` that are none.
    """
    settings = Settings() if settings is None else settings
    check_kind(settings, "settings", (Settings,), "a foundry_lab.Settings(…)")
    idle_stop_s()  # a bad value is to be an error here, not in the service's log
    thread_count()
    if settings.endpoint:
        probe.check_foundry_local(settings.endpoint)
        return settings.endpoint
    state = service_status()
    if state is not None and _answers(state):
        if settings.catalog == "public" and not state.public_catalog:
            _say(
                "The running service was started without Microsoft's catalog. "
                "To have it: foundry-lab stop, and start again.",
                progress=progress,
            )
        return state.url
    if attached := foundry_cli.running_endpoint():
        log.info("Using the service of the foundry command at %s", attached)
        return attached
    prepare_model(progress=progress)
    return _start(public_catalog=settings.catalog == "public", progress=progress).url


def service_status() -> ServiceState | None:
    """Return the lab's running service, or None."""
    state = live_state()
    return state if state is not None and state.ready else None


def resume_service() -> ServiceState | None:
    """Start the lab's service again, as it was, if it stopped for want of work; None if it didn't.

    Takes seconds.

    Raises:
        EngineError: it doesn't start.
    """
    last = ended("idle")
    if last is None:
        return None
    prepare_model(progress=False)
    return _start(public_catalog=last.public_catalog, progress=False)


def control_for(endpoint: str) -> ServiceState | None:
    """Return the lab's running service if this is its base URL, or None."""
    state, named = service_status(), urlsplit(endpoint)
    here = named.hostname in ("127.0.0.1", "localhost")
    return state if state is not None and here and named.port == urlsplit(state.url).port else None


def stop_service(timeout: float = 15.0) -> bool:
    """Stop the lab's service and wait until its process is gone.

    Args:
        timeout: seconds for it to end by itself; then it is killed.

    Returns:
        True if there was one.

    Raises:
        EngineError: it can't be ended.
        ConfigurationError: that is no time.
    """
    timeout = check_seconds(timeout, "timeout")
    with _lock():
        if state := live_state():
            _end(state, timeout)
        return state is not None


def serve(
    *, port: int = 0, public_catalog: bool = False, on_ready: Callable[[ServiceState], None] | None = None
) -> None:
    """Run the embedded service in this process until Ctrl-C, SIGTERM or `stop_service` elsewhere.

    The process's environment is changed for the runtime: it keeps its temporary files in the lab's folder.
    It takes the main thread of a program; in a notebook use `ensure_service`.

    Args:
        port: on 127.0.0.1; 0 takes a free one.
        public_catalog: serve the models of Microsoft's catalog as well.
        on_ready: called with the state once requests are taken.

    Raises:
        EngineError: one runs already, the port is taken, or it doesn't start.
        ConfigurationError: a port that can't be, or a bad value in the environment.
        RuntimeError: another thread, or one in which an event loop runs.
    """
    if not is_whole(port) or not 0 <= port <= 65535:
        raise ConfigurationError(
            f"port={port!r} must be a whole number from 1 to 65535, or 0 for a free one."
        )
    from foundry_lab.engine.service import process as service

    prepare_model()
    with _lock():
        if state := live_state():
            where = f"at {state.url}" if state.ready else "and is starting"
            raise EngineError(
                f"The lab's service runs already {where} (process {state.pid}). "
                "Use that one, or end it first: foundry-lab stop"
            )
        note(os.getpid(), public_catalog=public_catalog)
    try:
        asyncio.run(service.run(port=port, public_catalog=public_catalog, on_ready=on_ready))
    finally:
        remove_state(os.getpid())


def _say(what: str, *, progress: bool) -> None:
    """Say what is odd where somebody looks: beside a client the package's log is quiet unless configured."""
    if progress:
        print(what, file=sys.stderr, flush=True)
    else:
        log.warning(what)


def _answers(state: ServiceState) -> bool:
    return probe.answering_pid(state.url) == state.pid


def _lock() -> AbstractContextManager[None]:
    """Hold the lock under which services are started and stopped."""
    return locked("service", "starting or stopping the service", LOCK_TIMEOUT_S)


def _start(*, public_catalog: bool, progress: bool) -> ServiceState:
    """Start the embedded service, unless another process did so while we waited for the lock."""
    with _lock():
        state = live_state()
        if state is not None and state.ready:
            if _answers(state):
                return state
            log.warning("Process %d of the service doesn't answer; it is replaced.", state.pid)
            _end(state, timeout=2.0)
            state = None
        if state is None and ended("shut down"):
            _say(f"The service before was {SHUT_DOWN}; it is started again.", progress=progress)
        began = time.monotonic()
        if progress:
            print("Starting Foundry Local ... ", end="", file=sys.stderr, flush=True)
        if state is None:
            launch(public_catalog=public_catalog)
        state = _await_ready()
        if progress:
            print(f"ready after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        return state


def _await_ready() -> ServiceState:
    """Wait until the service that is starting answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while state := live_state():
        if state.ready and _answers(state):
            return state
        if time.monotonic() > deadline:
            _end(state, timeout=2.0)
            raise failure(f"The embedded service wasn't ready within {START_TIMEOUT_S:.0f} s and was ended.")
        time.sleep(POLL_S)
    raise failure("The embedded service ended while it started.")


def _end(state: ServiceState, timeout: float) -> None:
    """End the service's process: ask, then terminate, then kill."""
    process = process_of(state)
    steps = [process.terminate, process.kill] if process is not None else []
    if steps and state.ready:
        steps.insert(0, lambda: _ask_to_stop(state))
    for step in steps:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            step()
        deadline = time.monotonic() + timeout
        while process_of(state) is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if process_of(state) is None:
            break
        log.warning("Process %d of the service is still there; trying harder.", state.pid)
        timeout = 5.0
    if process_of(state) is not None:
        raise EngineError(
            f"Process {state.pid} of the service can't be ended. End it with the system's task manager."
        )
    remove_state(state.pid)


def _ask_to_stop(state: ServiceState) -> None:
    with contextlib.suppress(*probe.NO_ANSWER):
        token = f"Bearer {state.control_token}"
        probe.request("POST", f"{state.control_url}/control/shutdown", Authorization=token)
