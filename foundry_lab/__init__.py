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
    from .cache import ResponseCache
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
    from .fault_kinds import Fault
    from .faults import FaultProxy
    from .logs import configure_logging
    from .metrics import Metrics
    from .monitor import HealthMonitor
    from .oneliners import complete, stream
    from .resilience import RetryPolicy
    from .supervisor import Supervisor
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
    "Fault",
    "FaultProxy",
    "FoundryAPIClient",
    "FoundryError",
    "Health",
    "HealthMonitor",
    "Metrics",
    "Model",
    "ModelBusyError",
    "ModelNotFoundError",
    "ModelNotLoadedError",
    "RateLimitError",
    "RequestTimeoutError",
    "ResponseCache",
    "ResponseFormatError",
    "RetryPolicy",
    "ServerError",
    "ServiceUnavailableError",
    "Settings",
    "StreamInterruptedError",
    "StructuredOutputError",
    "Supervisor",
    "SyncFoundryAPIClient",
    "Usage",
    "complete",
    "configure_logging",
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
    "Fault": "fault_kinds",
    "FaultProxy": "faults",
    "FoundryAPIClient": "client",
    "HealthMonitor": "monitor",
    "Metrics": "metrics",
    "ResponseCache": "cache",
    "RetryPolicy": "resilience",
    "Settings": "config",
    "Supervisor": "supervisor",
    "SyncFoundryAPIClient": "sync_client",
    "complete": "oneliners",
    "configure_logging": "logs",
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
