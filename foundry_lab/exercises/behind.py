"""What checks share that use a client: a call with a client of its own, and what a proxy's log tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foundry_lab import FoundryAPIClient
from foundry_lab.faults import FaultProxy
from foundry_lab.protocol import CHAT_PATH

BUSY_S = 60.0
"""How long a call may take that the real service answers: other people may be in front."""


def with_client(function: Callable[..., Any], url: str, *args: Any) -> Callable[[], Any]:
    """Return a call of a learner's async function with a client of its own, which is closed afterwards."""

    async def run() -> Any:
        async with FoundryAPIClient(url, retries=0, breaker=False, metrics=False) as client:
            return await function(client, *args)

    return run


def completions(proxy: FaultProxy) -> list[str]:
    """Return what each request for a completion met: a fault, or nothing."""
    return [entry.fault for entry in proxy.log if entry.path == CHAT_PATH]


def service_url() -> str:
    """Return the address of the service that a client without an endpoint would use."""
    with FaultProxy() as proxy:
        return proxy.upstream or ""
