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
    """Return the lab's service that runs now, after one stopped answering; None if that is the same.

    One at a place that somebody named is looked for there alone: its control route has moved.

    Args:
        resume: start one again that was found and stopped for want of work.
    """
    endpoint = target.endpoint
    if target.found:
        state = engine.service_status() or (engine.resume_service() if resume else None)
        if state is None:
            return None
        endpoint = state.url
    there = _target(endpoint, found=target.found)
    return there if there.control_url is not None and there != target else None


def _target(endpoint: str, *, found: bool) -> Target:
    state = engine.control_for(endpoint)
    if state is None:
        listener = listener_at(urlsplit(endpoint).port or 80) if found else None
        return Target(endpoint, found, listener)
    listener = Listener(state.pid) if found else None
    return Target(endpoint, found, listener, state.control_url, state.control_token, state.versions)
