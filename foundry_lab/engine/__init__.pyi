# Each public name and its home, for type checkers, for editors, and for `__init__.py`, which loads them.
from .model.bundle import export_model as export_model
from .model.bundle import import_model as import_model
from .model.prepare import prepare_model as prepare_model
from .model.prepare import prepared_models as prepared_models
from .model.prepare import remove_model as remove_model
from .service.discovery import control_for as control_for
from .service.discovery import ensure_service as ensure_service
from .service.discovery import resume_service as resume_service
from .service.discovery import serve as serve
from .service.discovery import service_status as service_status
from .service.discovery import stop_service as stop_service
from .service.state import ServiceState as ServiceState
from .spec import PreparedModel as PreparedModel
