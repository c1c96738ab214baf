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
    from foundry_lab.batch.items import BatchInputError
    from foundry_lab.batch.output import BatchOutputError
    from foundry_lab.batch.report import BatchReport, BatchStoppedError
    from foundry_lab.client import FoundryAPIClient
    from foundry_lab.config import Settings
    from foundry_lab.engine import ensure_service, stop_service
    from foundry_lab.engine.service.supervisor import Supervisor
    from foundry_lab.errors import (
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
    from foundry_lab.faults.kinds import Fault
    from foundry_lab.faults.proxy import FaultProxy
    from foundry_lab.logs import configure_logging
    from foundry_lab.metrics import Metrics
    from foundry_lab.monitor import HealthMonitor
    from foundry_lab.policies.breaker import CircuitBreaker
    from foundry_lab.policies.cache import ResponseCache
    from foundry_lab.policies.retry import RetryPolicy
    from foundry_lab.sync_client import SyncFoundryAPIClient, complete, stream
    from foundry_lab.types import Chunk, Completion, Health, Model, Usage

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
    "CircuitBreaker": "policies.breaker",
    "Fault": "faults.kinds",
    "FaultProxy": "faults.proxy",
    "FoundryAPIClient": "client",
    "HealthMonitor": "monitor",
    "Metrics": "metrics",
    "ResponseCache": "policies.cache",
    "RetryPolicy": "policies.retry",
    "Settings": "config",
    "Supervisor": "engine.service.supervisor",
    "SyncFoundryAPIClient": "sync_client",
    "complete": "sync_client",
    "configure_logging": "logs",
    "ensure_service": "engine",
    "stop_service": "engine",
    "stream": "sync_client",
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
