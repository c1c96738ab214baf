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
    from .batch.items import BatchInputError
    from .batch.output import BatchOutputError
    from .batch.report import BatchReport, BatchStoppedError
    from .breaker import CircuitBreaker
    from .client import FoundryAPIClient
    from .config import Settings
    from .engine import ensure_service, stop_service
    from .errors import (
        APIStatusError,
        AuthenticationError,
        BadRequestError,
        CircuitOpenError,
        ConfigurationError,
        ContextLengthError,
        EngineError,
        FoundryError,
        ModelBusyError,
        ModelNotFoundError,
        ModelNotLoadedError,
        RateLimitError,
        RequestTimeoutError,
        ResponseFormatError,
        ServerError,
        ServiceUnavailableError,
        StreamInterruptedError,
        StructuredOutputError,
    )
    from .oneliners import complete, stream
    from .resilience import RetryPolicy
    from .sync_client import SyncFoundryAPIClient
    from .types import Chunk, Completion, Health, Model, Usage

__version__ = "0.1.0"

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "BadRequestError",
    "BatchInputError",
    "BatchOutputError",
    "BatchReport",
    "BatchStoppedError",
    "Chunk",
    "CircuitBreaker",
    "CircuitOpenError",
    "Completion",
    "ConfigurationError",
    "ContextLengthError",
    "EngineError",
    "FoundryAPIClient",
    "FoundryError",
    "Health",
    "Model",
    "ModelBusyError",
    "ModelNotFoundError",
    "ModelNotLoadedError",
    "RateLimitError",
    "RequestTimeoutError",
    "ResponseFormatError",
    "RetryPolicy",
    "ServerError",
    "ServiceUnavailableError",
    "Settings",
    "StreamInterruptedError",
    "StructuredOutputError",
    "SyncFoundryAPIClient",
    "Usage",
    "complete",
    "ensure_service",
    "stop_service",
    "stream",
]

_HOME = {
    "BatchInputError": "batch.items",
    "BatchOutputError": "batch.output",
    "BatchReport": "batch.report",
    "BatchStoppedError": "batch.report",
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
"""What is neither in `errors` nor in `types`."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _HOME.get(name) or ("errors" if name.endswith("Error") else "types")
        return getattr(importlib.import_module(f".{home}", __name__), name)
    if name == "errors":
        return importlib.import_module(".errors", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
