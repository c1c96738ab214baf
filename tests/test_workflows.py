"""The files of continuous integration run what README says, and name what pyproject names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".github" / "workflows" / "ci.yml"
COURSE = ROOT / "docs" / "ci-for-your-course.yml"
CONDA_NAMES = {
    "jupyter-client": "jupyter_client",
    "matplotlib": "matplotlib-base",
    "nbconvert": "nbconvert-core",
    "prometheus-client": "prometheus_client",
}
"""What a distribution is called at conda-forge, if not as on PyPI; two are the part of it that we need."""
BY_PIP = {"foundry-local-sdk"}


def readme_command(marker: str) -> str:
    """Return the command in README's first block of code after a marker."""
    found = re.search(
        rf"<!-- {marker} -->\s*```\w+\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    assert found is not None
    return found[1]


def test_the_workflow_runs_readmes_commands() -> None:
    workflow = CI.read_text("utf-8")
    assert f"run: {readme_command('test-command')}\n" in workflow
    install, run = readme_command("run-command").split(" && ")
    assert f"run: {install.replace(' .', ' dist/*.whl')} && {run}\n" in workflow


def test_every_python_and_system_of_the_package_is_tried() -> None:
    workflow = CI.read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    first, end = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    assert f"python: {[f'3.{n}' for n in range(first, end)]}".replace("'", '"') in workflow
    for system in ("ubuntu-24.04", "ubuntu-24.04-arm", "macos-", "windows-"):
        assert re.search(rf"os: \[.*\b{system}", workflow)


def test_actions_are_pinned_and_the_same_in_both_files() -> None:
    """A tag can be moved to other code; a commit can't."""
    pins: dict[str, set[str]] = {}
    for action, pin in re.findall(r"uses: (\S+?)@(.*)", CI.read_text("utf-8") + COURSE.read_text("utf-8")):
        assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", pin), action
        pins.setdefault(action, set()).add(pin)
    assert pins and all(len(each) == 1 for each in pins.values())


def test_the_conda_environment_has_what_pyproject_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = set()
    for requirement in project["dependencies"]:
        name, limits = re.match(r"([\w-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA_NAMES.get(name, name)} {limits}")
    lines = re.findall(r"^( *)- (.*)$", (ROOT / "environment.yml").read_text("utf-8"), re.M)
    given = {line for _, line in lines if ">=" in line} - {"pip >=24"}
    assert given == wanted
    assert {line.split()[0] for space, line in lines if len(space) > 2} == BY_PIP | {"-e"}
    python = next(line for _, line in lines if line.startswith("python "))
    first, end = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    # The way of writing it that repo2docker understands, too.
    assert first <= int(re.match(r"python\s*=+\s*3\.(\d+)", python)[1]) < end  # type: ignore[index]
