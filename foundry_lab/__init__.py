"""Foundry Lab: Microsoft Foundry Local as a plain REST service, in a course of notebooks and a small package.

    from foundry_lab import FoundryAPIClient
    async with FoundryAPIClient() as client:
        print((await client.complete("Why is the sky blue?", max_tokens=80)).content)

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; `_HOMES` is what runs, and a test holds both equal
    from foundry_lab.batch.items import BatchInputError as BatchInputError
    from foundry_lab.batch.options import BatchOptions as BatchOptions
    from foundry_lab.batch.output import BatchOutputError as BatchOutputError
    from foundry_lab.batch.report import BatchReport as BatchReport
    from foundry_lab.batch.report import BatchStoppedError as BatchStoppedError
    from foundry_lab.calls.chat import ChatOptions as ChatOptions
    from foundry_lab.client import FoundryAPIClient as FoundryAPIClient
    from foundry_lab.config import Settings as Settings
    from foundry_lab.engine import ensure_service as ensure_service
    from foundry_lab.engine import stop_service as stop_service
    from foundry_lab.engine.service.supervisor import Supervisor as Supervisor
    from foundry_lab.errors import APIStatusError as APIStatusError
    from foundry_lab.errors import AuthenticationError as AuthenticationError
    from foundry_lab.errors import BadRequestError as BadRequestError
    from foundry_lab.errors import CircuitOpenError as CircuitOpenError
    from foundry_lab.errors import ConfigurationError as ConfigurationError
    from foundry_lab.errors import ContextLengthError as ContextLengthError
    from foundry_lab.errors import EngineError as EngineError
    from foundry_lab.errors import FoundryError as FoundryError
    from foundry_lab.errors import ModelBusyError as ModelBusyError
    from foundry_lab.errors import ModelNotFoundError as ModelNotFoundError
    from foundry_lab.errors import ModelNotLoadedError as ModelNotLoadedError
    from foundry_lab.errors import RateLimitError as RateLimitError
    from foundry_lab.errors import RequestTimeoutError as RequestTimeoutError
    from foundry_lab.errors import ResponseFormatError as ResponseFormatError
    from foundry_lab.errors import ServerError as ServerError
    from foundry_lab.errors import ServiceUnavailableError as ServiceUnavailableError
    from foundry_lab.errors import StreamInterruptedError as StreamInterruptedError
    from foundry_lab.errors import StructuredOutputError as StructuredOutputError
    from foundry_lab.faults import Fault as Fault
    from foundry_lab.faults import FaultProxy as FaultProxy
    from foundry_lab.logs import configure_logging as configure_logging
    from foundry_lab.metrics import Metrics as Metrics
    from foundry_lab.monitor import HealthMonitor as HealthMonitor
    from foundry_lab.policies.breaker import CircuitBreaker as CircuitBreaker
    from foundry_lab.policies.cache import ResponseCache as ResponseCache
    from foundry_lab.policies.retry import RetryPolicy as RetryPolicy
    from foundry_lab.sync_client import SyncFoundryAPIClient as SyncFoundryAPIClient
    from foundry_lab.sync_client import complete as complete
    from foundry_lab.sync_client import stream as stream
    from foundry_lab.types import Chunk as Chunk
    from foundry_lab.types import Completion as Completion
    from foundry_lab.types import Health as Health
    from foundry_lab.types import Model as Model
    from foundry_lab.types import Usage as Usage
    from foundry_lab.workbook import plots as plots
    from foundry_lab.workbook import widgets as widgets

__version__ = "0.1.0"

_HOMES = {
    "batch.items": "BatchInputError",
    "batch.options": "BatchOptions",
    "batch.output": "BatchOutputError",
    "batch.report": "BatchReport BatchStoppedError",
    "calls.chat": "ChatOptions",
    "client": "FoundryAPIClient",
    "config": "Settings",
    "engine": "ensure_service stop_service",
    "engine.service.supervisor": "Supervisor",
    "errors": "APIStatusError AuthenticationError BadRequestError CircuitOpenError ConfigurationError "
    "ContextLengthError EngineError FoundryError ModelBusyError ModelNotFoundError ModelNotLoadedError "
    "RateLimitError RequestTimeoutError ResponseFormatError ServerError ServiceUnavailableError "
    "StreamInterruptedError StructuredOutputError",
    "faults": "Fault FaultProxy",
    "logs": "configure_logging",
    "metrics": "Metrics",
    "monitor": "HealthMonitor",
    "policies.breaker": "CircuitBreaker",
    "policies.cache": "ResponseCache",
    "policies.retry": "RetryPolicy",
    "sync_client": "SyncFoundryAPIClient complete stream",
    "types": "Chunk Completion Health Model Usage",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
_MODULES = {"errors": "errors", "plots": "workbook.plots", "widgets": "workbook.widgets"}
"""Modules that are at hand without an import of their own."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
