"""The course's sources as tests use them: the generator, and each exercise's answer as code to be run."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "notebooks" / "source"
BEFORE = """
import asyncio, json, time
import requests
http = requests.Session()
http.trust_env = False
CHAT = "/v1/chat/completions"
"""
"""What the lessons have defined where the exercises stand."""


@cache
def generator() -> ModuleType:
    """notebooks/source/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", SOURCES / "generate.py")
    assert spec and spec.loader
    module = sys.modules["generate"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def answers() -> dict[str, str]:
    """The solution's code of every exercise that a program checks, by number."""
    found: dict[str, str] = {}
    for path in sorted((SOURCES / "exercises").glob("*.py")):
        for number, parts in generator().exercise_cells(path.stem).items():
            for part in parts:
                if "answer" in part.settings and not part.markdown:
                    found[number] = part.text
    return found


def stub_of(code: str) -> str:
    """What nbgrader leaves of an answer, the learner's stub."""
    kept, solution = [], False
    for line in code.splitlines():
        if "BEGIN SOLUTION" in line:
            solution = True
        elif "END SOLUTION" in line:
            solution = False
        elif not solution:
            kept.append(line)
    return "\n".join(kept)


def run(code: str) -> Any:
    """Run an answer's code; return the last function or class that it defines."""
    names: dict[str, Any] = {}
    exec(compile(BEFORE, "<before>", "exec"), names)
    before = set(names)
    exec(compile(code, "<answer>", "exec"), names)
    return [value for name, value in names.items() if name not in before][-1]
