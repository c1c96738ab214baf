"""Style, types, committed notebooks, and what an import costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
MAY_RAISE = {"raises-exception", "nbval-raises-exception"}
SIZE_LIMIT = 500_000  # bytes; larger ones are slow to open and to review

MACHINE_PATH = re.compile(r"/(home|Users|root|work|tmp)/\w|[A-Za-z]:\\+Users|site-packages")
SECRET = re.compile(r"\b(sk-|ghp_|hf_)[A-Za-z0-9]{16,}|[Bb]earer [A-Za-z0-9._-]{20,}|\b[0-9a-f]{40,}\b")


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_tool_finds_nothing(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workbook_has_notebooks() -> None:
    assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_notebook_is_valid_and_small(notebook: Path) -> None:
    nbformat.validate(nbformat.read(notebook, as_version=4))
    assert notebook.stat().st_size < SIZE_LIMIT


def test_notebook_was_run_from_top_to_bottom(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_notebook_carries_no_time_stamps(notebook: Path) -> None:
    for cell in nbformat.read(notebook, as_version=4).cells:
        assert "execution" not in cell.metadata, cell.source


def test_notebook_has_only_errors_made_on_purpose(notebook: Path) -> None:
    for cell in nbformat.read(notebook, as_version=4).cells:
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        assert not errors or MAY_RAISE & set(cell.metadata.get("tags", [])), cell.source


def test_notebook_tells_nothing_of_the_machine_it_ran_on(notebook: Path) -> None:
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            for mime in [name for name in output.get("data", {}) if name.startswith("image/")]:
                del output.data[mime]  # base64 may look like anything
            text = str(output)
            assert not MACHINE_PATH.search(text), cell.source
            assert not SECRET.search(text), cell.source


def test_import_is_light() -> None:
    heavy = ("matplotlib", "ipywidgets", "IPython", "onnx", "gguf", "foundry_local_sdk", "openai", "pydantic")
    code = f"import sys, foundry_lab; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
