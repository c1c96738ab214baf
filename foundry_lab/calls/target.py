"""Where requests go: the service that was named, or the one that is found or started the first time."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from foundry_lab import engine
from foundry_lab._ground.listeners import Listener, listener_at
from foundry_lab.config import Settings


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
    endpoint = settings.endpoint or engine.ensure_service(settings)
    return _target(endpoint, found=settings.endpoint is None)


def relocate(target: Target, *, resume: bool = True) -> Target | None:
    """Return where a lab service runs now that a found one stopped answering; None if it didn't move.

    Args:
        resume: start one again that stopped for want of work.
    """
    state = engine.service_status() if target.found else None
    if state is None and target.found and resume:
        state = engine.resume_service()
    there = _target(state.url, found=True) if state is not None else None
    if there is None or (there.endpoint, there.listener) == (target.endpoint, target.listener):
        return None
    return there


def _target(endpoint: str, *, found: bool) -> Target:
    state = engine.control_for(endpoint)
    if state is None:
        listener = listener_at(urlsplit(endpoint).port or 80) if found else None
        return Target(endpoint, found, listener)
    listener = Listener(state.pid) if found else None
    return Target(endpoint, found, listener, state.control_url, state.control_token, state.versions)
