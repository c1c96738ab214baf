"""The course's sources as tests use them: the generator, and each exercise's answer as code to be run."""

from __future__ import annotations

import ast
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
from types import SimpleNamespace
import requests
http = requests.Session()
http.trust_env = False
CHAT = "/v1/chat/completions"
four = SimpleNamespace(concurrency=4, items_per_s=9.1, mean_s=0.43)
six = SimpleNamespace(concurrency=6, items_per_s=9.2, mean_s=0.62)
"""
"""What the lessons have defined where the exercises stand, and what a check's cell has measured: on a machine
that isn't the one of the recorded runs."""


@cache
def generator() -> ModuleType:
    """notebooks/source/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", SOURCES / "generate.py")
    assert spec and spec.loader
    module = sys.modules["generate"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def code_cells(kind: str) -> dict[str, str]:
    """The code of each exercise's cell of this kind, "answer" or "check", by the exercise's number."""
    found: dict[str, str] = {}
    for path in sorted((SOURCES / "exercises").glob("*.py")):
        for number, parts in generator().exercise_cells(path.stem).items():
            for part in parts:
                if kind in part.settings and not part.markdown:
                    found[number] = part.text
    return found


def answers() -> dict[str, str]:
    """The solution's code of every exercise that a program checks, by number."""
    return code_cells("answer")


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


def handed_over(number: str, code: str) -> list[Any]:
    """Run an answer's code; return what the check cell then gives to `check`, behind the number."""
    names: dict[str, Any] = {}
    exec(compile(BEFORE, "<before>", "exec"), names)
    exec(compile(code, "<answer>", "exec"), names)
    last = ast.parse(code_cells("check")[number]).body[-1]
    assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
    name, *rest = [eval(ast.unparse(each), names) for each in last.value.args]
    assert name == number
    return rest
