"""Where requests go, found or started the first time, and what to say when nobody answers there."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from foundry_lab._ground.listeners import Listener, listener_at
from foundry_lab.config import Settings
from foundry_lab.errors import (
    RequestTimeoutError,
    ResponseFormatError,
    ServiceUnavailableError,
    StreamInterruptedError,
)

CONNECT_TIMEOUT_S = 5.0
_GONE = (
    "The service that was found there has ended. Start it again with foundry_lab.ensure_service() in "
    "Python or `foundry-lab serve` in a terminal, and call again: this client finds it."
)


class Target(msgspec.Struct, frozen=True):
    """Where requests go. The control route is there only for the lab's own service.

    Attributes:
        found: the engine found or started it; nobody gave an address. No credentials are sent there.
        listener: a found service's process; nothing is sent to another one that listens there later. None
            where the system doesn't tell.
    """

    endpoint: str
    found: bool = False
    listener: Listener | None = None
    control_url: str | None = None
    control_token: str | None = None
    versions: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Target({self.endpoint!r})"  # the token stays out of sight


def locate(settings: Settings) -> Target:
    """Return the service to talk to; start the embedded one where there is none. May take seconds.

    Raises:
        EngineError: none is there and none can be started.
    """
    from foundry_lab import engine

    endpoint = settings.endpoint or engine.ensure_service(settings)
    return _target(endpoint, found=settings.endpoint is None)


def relocate(target: Target, *, resume: bool = True) -> Target | None:
    """Return where a lab service runs now that a found one stopped answering; None if it didn't move.

    Args:
        resume: start one again that stopped for want of work.
    """
    from foundry_lab import engine

    state = engine.service_status() if target.found else None
    if state is None and target.found and resume:
        state = engine.resume_service()
    there = _target(state.url, found=True) if state is not None else None
    if there is None or (there.endpoint, there.listener) == (target.endpoint, target.listener):
        return None
    return there


def _target(endpoint: str, *, found: bool) -> Target:
    from foundry_lab import engine

    state = engine.control_for(endpoint)
    listener = _listener(endpoint, state.pid if state is not None else None) if found else None
    if state is None:
        return Target(endpoint, found, listener)
    return Target(endpoint, found, listener, state.control_url, state.control_token, state.versions)


def _listener(endpoint: str, pid: int | None) -> Listener | None:
    """Return the process that was noted for a service, or who listens there where none was."""
    return listener_at(urlsplit(endpoint).port or 80) if pid is None else Listener(pid)


def another_answers(endpoint: str) -> ServiceUnavailableError:
    """Return the error for a found service whose place another process has taken."""
    return ServiceUnavailableError(
        f"Another process listens at {endpoint}, and nothing was sent to it. {_GONE}"
    )


def nobody_answers(endpoint: str, error: object, *, found: bool) -> ServiceUnavailableError:
    """Return the error for a connection that couldn't be made; `found` as in `Target`."""
    advice = (
        _GONE
        if found
        else "Is the service running there? `foundry-lab status` shows the lab's own, `foundry-lab serve` "
        "starts it; FOUNDRY_ENDPOINT must name the right port."
    )
    return ServiceUnavailableError(f"Nobody answers at {endpoint} ({error}). {advice}")


def hung_up(endpoint: str, error: object) -> ServiceUnavailableError:
    """Return the error for a connection that ended before an answer."""
    return ServiceUnavailableError(
        f"{endpoint} closed the connection without an answer ({error}). The service may have been stopped "
        "or be restarting: try again, and look at `foundry-lab status` if it stays."
    )


def connect_timeout(endpoint: str, limit_s: float, *, found: bool) -> RequestTimeoutError:
    """Return the error for a connection that wasn't accepted in time; `found` as in `Target`."""
    advice = (
        "The service may have ended: see `foundry-lab status`, and call again."
        if found
        else "Check the address and that the service runs."
    )
    return RequestTimeoutError(
        f"{endpoint} didn't accept a connection within {limit_s:g} s. {advice}",
        phase="connect",
        limit_s=limit_s,
    )


def broke_off(endpoint: str, error: object) -> StreamInterruptedError:
    """Return the error for a connection that ended in mid-answer."""
    return StreamInterruptedError(
        f"The connection to {endpoint} broke in mid-answer ({_in_one_line(error)}). The service may have "
        "been stopped: see `foundry-lab status`, then ask again."
    )


def of_the_parent() -> StreamInterruptedError:
    """Return the error for a stream that a forked process reads on."""
    return StreamInterruptedError(
        "A forked process can't read on in a stream of its parent's. Ask again in this process; the text so "
        "far is in .partial."
    )


def not_http(endpoint: str, error: object) -> ResponseFormatError:
    """Return the error for somebody who answers, but not in HTTP."""
    return ResponseFormatError(
        f"What answers at {endpoint} doesn't speak HTTP as Foundry Local does ({_in_one_line(error)}). "
        "Check the address and port."
    )


def too_large(limit_bytes: int) -> ResponseFormatError:
    """Return the error for an answer that would fill the memory."""
    return ResponseFormatError(
        f"The answer is larger than {limit_bytes:,} bytes and was given up. Check that the endpoint is "
        "Foundry Local."
    )


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())
