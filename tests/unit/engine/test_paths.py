"""Where the lab's files lie, whatever folder a program works in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundry_lab.engine import paths


@pytest.mark.parametrize("variable", ["FOUNDRY_LAB_HOME", "FOUNDRY_LAB_MODELS", "FOUNDRY_LAB_GGUF"])
def test_a_relative_path_means_one_place_after_a_change_of_folder_too(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service that had been started was not found again, and could not be stopped."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv(variable, "lab")
    monkeypatch.chdir(tmp_path)
    assert paths.named_by(variable) == tmp_path / "lab"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert paths.named_by(variable) == tmp_path / "lab"
    code = f"from foundry_lab.engine import paths; print(paths.named_by({variable!r}))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(tmp_path / "lab")


def test_an_absolute_path_and_none_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_LAB_HOME", f" {tmp_path} ")
    assert paths.home() == tmp_path and os.environ["FOUNDRY_LAB_HOME"] == f" {tmp_path} "
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", "")
    assert paths.shared_models() is None and os.environ["FOUNDRY_LAB_MODELS"] == ""
