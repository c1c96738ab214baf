"""The layers of pyproject.toml hold, and each contract notices what it forbids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
CONTRACTS = {contract["id"]: contract["name"] for contract in TOOLS["importlinter"]["contracts"]}
VIOLATIONS = [
    ("house", "policies/breaker.py", "import foundry_lab.client"),  # an arrow back up
    ("house", "client.py", "import foundry_lab.sync_client"),  # two that are kept apart
    ("house", "attic.py", "import foundry_lab.errors"),  # a room without a place
    ("protocol", "protocol/headers.py", "import socket"),
    ("engine", "engine/model/prepare.py", "import foundry_lab.engine.service.state"),
    ("library", "calls/health.py", "import matplotlib"),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert program, "import-linter isn't installed beside this Python"
    return subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200"},  # no name is broken over two lines
        capture_output=True,
        encoding="utf-8",
    )


def test_the_package_keeps_every_contract() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in CONTRACTS.values():
        assert f"{name} KEPT" in done.stdout


def test_every_contract_has_a_violation_below() -> None:
    assert {contract for contract, *_ in VIOLATIONS} == set(CONTRACTS)


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS)
def test_a_forbidden_import_is_noticed(tmp_path: Path, contract: str, file: str, line: str) -> None:
    """A contract that never fails, for a misspelt module say, would protect nothing."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "foundry_lab", tmp_path / "foundry_lab", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (tmp_path / "foundry_lab" / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = {name for name in CONTRACTS.values() if f"{name} BROKEN" in done.stdout}
    assert broken == {CONTRACTS[contract]}
