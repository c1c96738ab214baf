"""The public names: each can be imported, is listed once, and stays where the documents say it is."""

from __future__ import annotations

import ast
import importlib
import inspect
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


@pytest.mark.parametrize("name", ["foundry_lab", "foundry_lab.engine"])
def test_type_checkers_read_the_names_that_run(name: str) -> None:
    """A lazy package lists its names twice: an editor reads the one list, Python the other."""
    face = importlib.import_module(name)
    read = set()
    [block] = [node for node in ast.parse(inspect.getsource(face)).body if is_for_type_checkers(node)]
    for line in block.body:
        assert isinstance(line, ast.ImportFrom), ast.unparse(line)
        read |= {(alias.asname or alias.name, line.module) for alias in line.names}
    run = set()
    for module, names in face._HOMES.items():
        listed = names.split() if isinstance(names, str) else names
        run |= {(public, f"{name}.{module}") for public in listed}
    for public, module in getattr(face, "_MODULES", {}).items():
        if public != module:  # one that stands where its name says is found without help
            run.add((public, f"{name}.{module.rpartition('.')[0]}"))
    assert read == run


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


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
