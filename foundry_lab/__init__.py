"""Foundry Lab: Microsoft Foundry Local as a plain REST service, in four notebooks and one small package.

    from foundry_lab import FoundryAPIClient
    async with FoundryAPIClient() as client:
        print((await client.complete("Why is the sky blue?", max_tokens=80)).content)

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .breaker import CircuitBreaker
    from .client import FoundryAPIClient
    from .config import Settings
    from .engine import ensure_service, stop_service
    from .oneliners import complete, stream
    from .resilience import RetryPolicy
    from .sync_client import SyncFoundryAPIClient

__version__ = "0.1.0"

_HOME = {
    "CircuitBreaker": "breaker",
    "FoundryAPIClient": "client",
    "RetryPolicy": "resilience",
    "Settings": "config",
    "SyncFoundryAPIClient": "sync_client",
    "complete": "oneliners",
    "ensure_service": "engine",
    "stop_service": "engine",
    "stream": "oneliners",
}

__all__ = [
    "CircuitBreaker",
    "FoundryAPIClient",
    "RetryPolicy",
    "Settings",
    "SyncFoundryAPIClient",
    "complete",
    "ensure_service",
    "stop_service",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name == "errors":
        return importlib.import_module(".errors", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
