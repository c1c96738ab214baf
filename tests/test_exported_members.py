"""The public names: each can be imported, is listed once, and stays where the documents say it is."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import foundry_lab
from foundry_lab import FoundryAPIClient, FoundryError, SyncFoundryAPIClient, errors, types

PACKAGES = [
    "foundry_lab",
    *(found.name for found in pkgutil.walk_packages(foundry_lab.__path__, "foundry_lab.") if found.ispkg),
]
FACES = [name for name in PACKAGES if hasattr(importlib.import_module(name), "__all__")]
DOCUMENTED_PATHS = """
    from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, Settings, Supervisor, engine, workbook
    from foundry_lab import complete, ensure_service, plots, stop_service, stream, widgets
    from foundry_lab.config import Settings
    from foundry_lab.engine import PreparedModel, ServiceState, control_for, ensure_service, export_model
    from foundry_lab.engine import import_model, prepare_model, prepared_models, remove_model, serve
    from foundry_lab.engine import service_status, stop_service
    from foundry_lab.errors import FoundryError
    from foundry_lab.faults import KINDS, Fault, FaultKind, FaultProxy
    from foundry_lab.faults.checklist import run_checklist
    from foundry_lab.logs import configure_logging, reset_logging
    from foundry_lab.metrics import Metrics, percentile
    from foundry_lab.monitor import HealthMonitor
    from foundry_lab.protocol import Reply, SSEDecoder, parse_completion
    from foundry_lab.types import Chunk, Completion, Health, Model, Usage
"""
SETTINGS = ["model", "api_key", "headers", "timeout", "retries", "settings"]
METHODS = [
    *("complete", "stream_complete", "complete_batch", "health_check", "close"),
    *("list_models", "loaded_models", "load_model", "unload_model"),
]
FIELDS = {
    types.Completion: "content model finish_reason usage latency_s",
    types.Usage: "prompt_tokens completion_tokens total_tokens",
    types.Chunk: "content",
    types.Health: "status loaded_models memory_usage uptime_s version latency_s",
}
ERRORS = {
    "ServiceUnavailableError RequestTimeoutError APIStatusError ResponseFormatError StreamInterruptedError "
    "CircuitOpenError StructuredOutputError EngineError": FoundryError,
    "BadRequestError AuthenticationError ModelNotFoundError ModelNotLoadedError ContextLengthError "
    "RateLimitError ServerError": errors.APIStatusError,
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_in_its_first_line_what_it_is_for(name: str) -> None:
    text = importlib.import_module(name).__doc__
    assert text and text.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", FACES)
def test_every_public_name_is_there_and_listed_once(name: str) -> None:
    face = importlib.import_module(name)
    assert [public for public in face.__all__ if not hasattr(face, public)] == []
    assert len(set(face.__all__)) == len(face.__all__)
    assert set(face.__all__) <= set(dir(face))


@pytest.mark.parametrize(
    "code", ["import foundry_lab", "from foundry_lab import engine", "from foundry_lab import Settings"]
)
def test_a_face_loads_what_is_used_and_no_more(code: str) -> None:
    heavy = "{'aiohttp', 'matplotlib', 'ipywidgets', 'onnx', 'foundry_local_sdk'}"
    run(f"{code}; import sys; assert not {heavy} & sys.modules.keys()")


def test_a_star_draws_nothing() -> None:
    run("from foundry_lab import *; import sys; assert not {'matplotlib', 'ipywidgets'} & sys.modules.keys()")


def test_a_program_that_wants_no_lazy_imports_has_all_names_at_once() -> None:
    """lazy_loader reads a variable that somebody may have set for another package."""
    run("import foundry_lab, sys; assert 'matplotlib' in sys.modules", EAGER_IMPORT="1")


def run(code: str, **variables: str) -> None:
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", DOCUMENTED_PATHS.strip().splitlines(), ids=str.strip)
def test_a_documented_path_stays(line: str) -> None:
    exec(line.strip(), {})


@pytest.mark.parametrize("module", ["foundry_lab", "foundry_lab.engine.service.process"])
def test_a_module_that_is_run_stays(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("client", [FoundryAPIClient, SyncFoundryAPIClient])
def test_both_clients_have_the_documented_methods_and_settings(client: type) -> None:
    assert [name for name in METHODS if not callable(getattr(client, name, None))] == []
    parameters = inspect.signature(client).parameters
    assert next(iter(parameters)) == "endpoint"
    for name in SETTINGS:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is None


@pytest.mark.parametrize("result", FIELDS, ids=lambda result: result.__name__)
def test_results_have_the_documented_fields(result: type) -> None:
    assert [field for field in FIELDS[result].split() if not hasattr(result, field)] == []


@pytest.mark.parametrize(("names", "base"), ERRORS.items(), ids=["FoundryError", "APIStatusError"])
def test_errors_stand_where_except_clauses_expect_them(names: str, base: type) -> None:
    for name in names.split():
        assert issubclass(getattr(foundry_lab, name), base)


def test_the_root_is_small_enough_to_open() -> None:
    """A learner sees the package's root first; what needs a thirteenth file belongs in a room."""
    assert len(list(Path(foundry_lab.__path__[0]).glob("*.py"))) <= 12
