"""What the wheel and the source archive carry."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import foundry_lab

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both with the backend alone: no network, no environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return folder


def notebooks() -> set[str]:
    found = (path.relative_to(ROOT) for path in (ROOT / "notebooks").rglob("*.ipynb"))
    names = {path.as_posix() for path in found if ".ipynb_checkpoints" not in path.parts}
    assert names
    return names


def test_wheel_carries_package_and_notebooks_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.replace("notebooks/", "foundry_lab/_notebooks/", 1) for name in notebooks()} <= names
    assert {"foundry_lab/__init__.py", "foundry_lab/__init__.pyi", "foundry_lab/py.typed"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"foundry_lab", f"foundry_lab-{foundry_lab.__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".onnx", ".gguf", ".pyc"))]
    assert not [name for name in names if "_notebooks/source" in name]


def test_source_archive_can_be_tested(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert notebooks() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "conftest.py", "tests/nbval.cfg"} <= names


def test_installed_wheel_finds_its_notebooks(built: Path, tmp_path: Path) -> None:
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-m", "foundry_lab", "new", "mine", "--teacher"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    copied = {
        "notebooks/" + path.relative_to(tmp_path / "mine").as_posix()
        for path in (tmp_path / "mine").rglob("*.ipynb")
    }
    assert {name for name in copied if "/grading/" not in name} == notebooks()
    assert sum("/grading/source/" in name for name in copied) == len(notebooks()) / 2
