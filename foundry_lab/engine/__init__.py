"""The embedded service: model preparation, the service process and its discovery.

The names below are loaded when they are used, so that importing this package brings neither onnx nor the SDK.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; `_HOMES` is what runs
    from foundry_lab.engine.model.bundle import export_model as export_model
    from foundry_lab.engine.model.bundle import import_model as import_model
    from foundry_lab.engine.model.prepare import prepare_model as prepare_model
    from foundry_lab.engine.model.prepare import prepared_models as prepared_models
    from foundry_lab.engine.model.prepare import remove_model as remove_model
    from foundry_lab.engine.service.discovery import control_for as control_for
    from foundry_lab.engine.service.discovery import ensure_service as ensure_service
    from foundry_lab.engine.service.discovery import resume_service as resume_service
    from foundry_lab.engine.service.discovery import serve as serve
    from foundry_lab.engine.service.discovery import service_status as service_status
    from foundry_lab.engine.service.discovery import stop_service as stop_service
    from foundry_lab.engine.service.state import ServiceState as ServiceState
    from foundry_lab.engine.spec import PreparedModel as PreparedModel

_HOMES = {
    "model.bundle": "export_model import_model",
    "model.prepare": "prepare_model prepared_models remove_model",
    "service.discovery": "control_for ensure_service resume_service serve service_status stop_service",
    "service.state": "ServiceState",
    "spec": "PreparedModel",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
