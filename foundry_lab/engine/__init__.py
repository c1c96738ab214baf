"""The embedded service: model preparation, the service process and its discovery.

Neither onnx nor the SDK comes with it: they are loaded where they are used.
"""

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
