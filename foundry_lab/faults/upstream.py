"""Where a fault proxy passes requests on to."""

from __future__ import annotations

import contextlib

from foundry_lab.calls.target import Target, locate, relocate
from foundry_lab.config import Settings, check_endpoint
from foundry_lab.errors import EngineError


class Upstream:
    """The service behind a proxy. The lab's own is followed when it is started again at another port.

    Args:
        url: its base URL; None finds or starts one when it is needed, as a client without an endpoint does.

    Raises:
        ConfigurationError: not a service address.
    """

    def __init__(self, url: str | None) -> None:
        self._target = None if url is None else _named(check_endpoint(url, "upstream"))

    @property
    def url(self) -> str | None:
        """Its base URL; None before it was found."""
        return self._target.endpoint if self._target is not None else None

    @property
    def found(self) -> bool:
        """Whether nobody named it: it was found, or is the lab's own."""
        return self._target is not None and self._target.found

    def find(self) -> None:
        """Find or start it, if nobody named it. May take seconds.

        Raises:
            EngineError: none is there and none can be started.
        """
        if self._target is None:
            self._target = locate(Settings())

    def moved(self) -> bool:
        """Now that nobody answers: whether the service runs elsewhere, which `url` names from now on."""
        moved = relocate(self._target) if self._target is not None else None
        self._target = moved or self._target
        return moved is not None


def _named(url: str) -> Target:
    """Return the target at an address that was given; the lab's own service there counts as found."""
    with contextlib.suppress(EngineError):  # a damaged note of the lab's is no matter of another service
        there = locate(Settings(endpoint=url))
        return Target(url, found=there.control_url is not None)
    return Target(url)
