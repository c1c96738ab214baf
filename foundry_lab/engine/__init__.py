"""The embedded service: model preparation, the service process and its discovery.

The names below are loaded when they are used, so that importing this package brings neither onnx nor the SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry_lab.engine.model.bundle import export_model, import_model
    from foundry_lab.engine.model.prepare import prepare_model, prepared_models, remove_model
    from foundry_lab.engine.service.discovery import (
        control_for,
        ensure_service,
        serve,
        service_status,
        stop_service,
    )
    from foundry_lab.engine.service.state import ServiceState
    from foundry_lab.engine.spec import PreparedModel

__all__ = [
    "PreparedModel",
    "ServiceState",
    "control_for",
    "ensure_service",
    "export_model",
    "import_model",
    "prepare_model",
    "prepared_models",
    "remove_model",
    "serve",
    "service_status",
    "stop_service",
]

_HOMES = {
    "model.bundle": ("export_model", "import_model"),
    "service.discovery": ("control_for", "ensure_service", "serve", "service_status", "stop_service"),
    "model.prepare": ("prepare_model", "prepared_models", "remove_model"),
    "spec": ("PreparedModel",),
    "service.state": ("ServiceState",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
