"""The notebooks are what their sources give, and what nbgrader needs is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from course_sources import SOURCES, generator

from foundry_lab.exercises import exercises

NAMES = [path.stem for path in sorted(SOURCES.glob("[0-9]*.py"))]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_what_the_source_gives(name: str) -> None:
    """After a change: python notebooks/source/generate.py NAME --execute."""
    assert generator().stale(SOURCES / f"{name}.py") == []


def test_no_notebook_is_without_a_source() -> None:
    books = generator().NOTEBOOKS
    lessons = {path.stem for path in books.glob("*.ipynb")}
    solved = {path.stem.removesuffix("_solutions") for path in (books / "solutions").glob("*.ipynb")}
    assert lessons == solved == set(NAMES)


def test_no_checked_output_depends_on_whether_the_service_ran_before() -> None:
    """Where it did, nobody says "Starting Foundry Local ..." on stderr, and the check would fail."""
    books = [*generator().NOTEBOOKS.glob("*.ipynb"), *generator().NOTEBOOKS.glob("solutions/*.ipynb")]
    cells = [cell for path in books for cell in nbformat.read(path, as_version=4).cells]
    checked = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", ())]
    assert len(checked) > len(books)
    assert [
        cell.source for cell in checked if any(each.get("name") == "stderr" for each in cell.outputs)
    ] == []


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of the test's own: its folder of notebooks."""
    shutil.copytree(generator().NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_*"))
    books = tmp_path / "notebooks"
    for name, path in {
        "NOTEBOOKS": books,
        "SOURCES": books / "source",
        "EXERCISES": books / "source" / "exercises",
    }.items():
        monkeypatch.setattr(generator(), name, path)
    return books


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("source/00_start.py", {"00_start.ipynb", "00_start_solutions.ipynb"}),
        ("source/exercises/00_start.py", {"00_start.ipynb", "00_start_solutions.ipynb"}),
        ("00_start.ipynb", {"00_start.ipynb"}),
        ("solutions/00_start_solutions.ipynb", {"00_start_solutions.ipynb"}),
    ],
)
def test_any_change_on_one_side_is_noticed(copy: Path, changed: str, stale: set[str]) -> None:
    text = (copy / changed).read_text(encoding="utf-8")
    assert " by hand" in text
    (copy / changed).write_text(text.replace(" by hand", " by foot"), encoding="utf-8")
    assert {path.name for path in generator().stale(copy / "source" / "00_start.py")} == stale


def test_stored_outputs_stay_where_the_code_stays(copy: Path) -> None:
    source = copy / "source" / "00_start.py"
    before = nbformat.read(copy / "00_start.ipynb", as_version=4)
    source.write_text(
        source.read_text(encoding="utf-8").replace("print(list(reply))", "print(len(reply))"),
        encoding="utf-8",
    )
    after = nbformat.reads(generator().generate(source)[copy / "00_start.ipynb"], as_version=4)
    kept = {cell.source: cell.outputs for cell in before.cells if cell.cell_type == "code"}
    changed = [cell for cell in after.cells if cell.cell_type == "code" and cell.source not in kept]
    assert [cell.outputs for cell in changed] == [[]]
    assert all(cell.outputs == kept[cell.source] for cell in after.cells if cell.get("source") in kept)


def test_an_exercise_without_a_place_is_an_error(copy: Path) -> None:
    source = copy / "source" / "00_start.py"
    source.write_text(
        source.read_text(encoding="utf-8").replace('# %% exercise="0.3"\n', ""), encoding="utf-8"
    )
    with pytest.raises(generator().SourceError, match=r"no place for the exercises 0\.3"):
        generator().generate(source)


@pytest.mark.parametrize("name", NAMES)
def test_learners_see_no_solution(name: str) -> None:
    text = (generator().NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    book = nbformat.reads(text, as_version=4)
    answers = [cell for cell in book.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    assert answers
    assert all("YOUR CODE HERE" in cell.source or cell.source == "Your answer here." for cell in answers)


def test_every_exercise_stands_in_a_notebook_with_its_points() -> None:
    found: dict[str, int] = {}
    for name in NAMES:
        book = nbformat.read(generator().NOTEBOOKS / f"{name}.ipynb", as_version=4)
        for cell in book.cells:
            data = cell.metadata.get("nbgrader", {})
            if data.get("grade") and data["locked"]:
                found[data["grade_id"].removeprefix("check-").replace("-", ".")] = data["points"]
    assert found == {each.number: each.points for each in exercises().values()}
