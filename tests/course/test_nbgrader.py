"""nbgrader itself, from a teacher's copy of the course to the points of its learners.

One whole lesson is graded here, and every exercise. All lessons against the real service take many minutes.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from course_sources import BEFORE
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from stub_server import StubService
from traitlets.config import Config
from wrong_answers import WRONG

from foundry_lab.exercises import exercises
from foundry_lab.workbook.copies import copy_to

LESSON = "01_basic"
"""Its checks have a small server of their own, and its lesson takes a stub: no model is needed."""
EXERCISES = "09_exercises"
"""The exercises of all lessons in one assignment of the test's own: the lessons measure, and take minutes."""
POINTS: dict[str, float] = {each.number: each.points for each in exercises().values()} | {"5.1": 3}
AND_BEFORE = """
import random, re
from types import SimpleNamespace
import numpy

prompts, quiet = [], {}
plots = SimpleNamespace(SweepPoint=SimpleNamespace(of=lambda at_once, run: run))


class client:
    async def complete_batch(prompts, concurrency):
        return SimpleNamespace(concurrency=concurrency, items_per_s=9.2, mean_s=concurrency / 9.2)
"""
"""What wrong answers import, and what a lesson measures with where an exercise takes measured runs."""
NEVER_AGAIN = """
def my_client(url):
    from foundry_lab import SyncFoundryAPIClient

    client = SyncFoundryAPIClient(url, retries=0)

    def ask(prompt, timeout_s):
        return client.complete(prompt, max_tokens=4, timeout=timeout_s).content

    return ask
"""
"""A client for 5.2 that fails three of the nine trials, as it never tries again: half of the points."""


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """The course for nbgrader in a teacher's copy."""
    copy_to(tmp_path, teacher=True)
    return tmp_path / "grading"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the service that the notebooks are graded against."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with StubService() as service:
        monkeypatch.setenv("FOUNDRY_ENDPOINT", service.url)
        yield service.url


def nbgrader(folder: Path, *arguments: str) -> None:
    """Run a command of nbgrader in a folder, without the settings of this machine's user."""
    own = folder.parent / "own"
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "IPYTHONDIR": str(own / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def settings(course: Path) -> Config:
    """What the course's file of settings says."""
    config = Config()
    exec((course / "nbgrader_config.py").read_text(encoding="utf-8"), {"get_config": lambda: config})
    return config


def in_process(course: Path, exchange: Path | None = None) -> NbGraderAPI:
    """nbgrader's commands as functions: a process of its own for each takes two seconds."""
    config = settings(course)
    config.CourseDirectory.root = str(course)
    if exchange:
        config.Exchange.root = str(exchange)
    return NbGraderAPI(config=config)


def read(file: Path) -> NotebookNode:
    return nbformat.read(file, as_version=4)


def exercise_of(cell: NotebookNode) -> str:
    """The exercise's number, for a cell that is an answer or a check."""
    kind, _, number = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
    return number.replace("-", ".") if kind in ("answer", "check") else ""


def is_answer(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def solutions(course: Path, assignment: str) -> dict[str, str]:
    book = read(course / "source" / assignment / f"{assignment}.ipynb")
    return {exercise_of(cell): cell.source for cell in book.cells if is_answer(cell)}


def fill_in(file: Path, answers: dict[str, str]) -> None:
    """Write answers into a learner's copy."""
    book = read(file)
    for cell in filter(is_answer, book.cells):
        cell.source = answers.get(exercise_of(cell), cell.source)
    nbformat.write(book, file)


def copy_the_first_answer(file: Path) -> None:
    """Copy an answer's cell with nbgrader's mark, as JupyterLab's "Duplicate Cell" does."""
    book = read(file)
    place = next(place for place, cell in enumerate(book.cells) if is_answer(cell))
    book.cells.insert(place, nbformat.from_dict({**book.cells[place], "id": "copied"}))
    nbformat.write(book, file)


def grades(course: Path, assignment: str) -> dict[str, dict[str, float]]:
    """What nbgrader wrote into its grade book: points by learner and exercise."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "foundry-lab") as book:
        return {
            submission.student_id: {
                grade.name.partition("-")[2].replace("-", "."): grade.score
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in book.assignment_submissions(assignment)
        }


def test_what_nbgrader_hands_out_is_what_learners_have(course: Path) -> None:
    """Who worked alone first, and in a class later, finds the same cells. Links lead to other assignments."""
    api = in_process(course)
    assignments = sorted(path.name for path in (course / "source").iterdir())
    texts: dict[Path, str] = {}
    for assignment in assignments:
        assert api.generate_assignment(assignment)["success"], assignment
        folder = course / "release" / assignment
        released = read(folder / f"{assignment}.ipynb")
        lesson = read(course.parent / f"{assignment}.ipynb")
        sources = [re.sub(r"\]\(\.\./\d\d_\w+/", "](", cell.source) for cell in released.cells]
        assert sources == [cell.source for cell in lesson.cells]
        texts[folder / "notebook"] = "\n".join(cell.source for cell in released.cells)
        texts[folder / "glossary.md"] = (folder / "glossary.md").read_text(encoding="utf-8")
    links = [(place, link) for place, text in texts.items() for link in re.findall(r"\]\(([\w./]+)\)", text)]
    assert len(links) > len(assignments) * 3
    assert [(place, link) for place, link in links if not (place.parent / link).exists()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange isn't available on Windows")
@pytest.mark.usefixtures("stub")
def test_a_whole_lesson_goes_out_and_comes_back_through_the_exchange(course: Path, tmp_path: Path) -> None:
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    exchange.chmod(0o777)
    api = in_process(course, exchange)
    assert api.generate_assignment(LESSON)["success"]
    assert api.release_assignment(LESSON)["success"]

    learner = tmp_path / "learner"
    learner.mkdir()
    here = ("--course=foundry-lab", f"--Exchange.root={exchange}")
    nbgrader(learner, "fetch_assignment", LESSON, *here)
    assert (learner / LESSON / "images").is_dir()
    fill_in(learner / LESSON / f"{LESSON}.ipynb", solutions(course, LESSON))
    nbgrader(learner, "submit", LESSON, "--student=anna", *here)

    assert api.collect(LESSON)["success"]
    nbgrader(course, "autograde", LESSON)
    expected = {number: points for number, points in POINTS.items() if number.startswith("1.")}
    assert grades(course, LESSON) == {"anna": expected}
    assert api.generate_feedback(LESSON)["success"]
    page = (course / "feedback" / "anna" / LESSON / f"{LESSON}.html").read_text(encoding="utf-8")
    assert f"(Score: {sum(expected.values()):.1f} / {sum(expected.values()):.1f})" in page


@pytest.mark.parametrize(
    ("file", "learner"),
    [
        ("anna/01_basic.ipynb", "anna"),
        ("anna_b/01_basic/01_basic.ipynb", "anna_b"),
        ("anna_01_basic.ipynb", "anna"),
        ("20261127_01_basic.ipynb", "20261127"),
        ("Jane Doe_2345_assignsubmission_file/01_basic.ipynb", "Jane Doe"),
        ("doejane_1234_5678_01_basic-1.ipynb", "doejane"),
        ("doejane_LATE_1234_5678_01_basic.ipynb", "doejane"),
        ("late_01_basic.ipynb", "late"),
        ("anna_01_basic (1).ipynb", "anna"),
        ("anna/01_basic(2).ipynb", "anna"),
        ("01_basic.ipynb", None),
        ("01_basic/01_basic.ipynb", None),
        ("all/doejane_1234_5678_01_basic.ipynb", None),  # a class's ZIP file, which is to be unpacked first
    ],
)
@pytest.mark.parametrize("root", ["/course/downloaded/01_basic/extracted/", "C:\\course\\extracted\\"])
def test_whose_file_it_is_is_never_guessed(course: Path, root: str, file: str, learner: str | None) -> None:
    path = root + file.replace("/", root[-1])
    found = re.match(settings(course).FileNameCollectorPlugin.named_regexp, path)
    assert (found and found.groupdict()) == (learner and {"student_id": learner, "file_id": LESSON})


def all_exercises(course: Path) -> NotebookNode:
    """The exercises of all lessons, each with its three cells, below what they find in their lessons."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BEFORE + AND_BEFORE)])
    for source in sorted((course / "source").glob("*/*.ipynb")):
        book.cells += [cell for cell in read(source).cells if exercise_of(cell)]
        book.metadata = read(source).metadata
    return book


def wrong_answer(number: str, solution: str) -> str:
    """A plausible wrong answer, as a learner would have written it; a value beside the function is right."""
    source = textwrap.dedent(inspect.getsource(WRONG[number][0].answer))
    definition = ast.parse(source).body[0]
    values = [ast.unparse(each) for each in ast.parse(solution).body if isinstance(each, ast.Assign)]
    return "\n".join([*source.splitlines()[definition.lineno - 1 :], *values])


@pytest.mark.usefixtures("stub")
def test_full_points_for_the_solutions_none_for_the_empty_copy_some_between(course: Path) -> None:
    """They come as learning platforms give them: a ZIP file, a folder for each learner, a file for each."""
    (course / "source" / EXERCISES).mkdir()
    nbformat.write(all_exercises(course), course / "source" / EXERCISES / f"{EXERCISES}.ipynb")
    assert in_process(course).generate_assignment(EXERCISES)["success"]
    released = course / "release" / EXERCISES / f"{EXERCISES}.ipynb"
    assert "SOLUTION" not in released.read_text(encoding="utf-8")

    archive = course / "downloaded" / EXERCISES / "archive"
    empty = archive / "empty_2345_assignsubmission_file" / released.name
    empty.parent.mkdir(parents=True)
    shutil.copy(released, empty)

    correct = shutil.copy(released, course.parent / released.name)
    fill_in(correct, solutions(course, EXERCISES))
    with zipfile.ZipFile(archive / "correct.zip", "w") as file:
        file.write(correct, released.name)

    right_in_naive = {number for number in POINTS if number.endswith(".1") and number != "5.1"}
    naive = shutil.copy(released, archive / f"naive_1234_5678_{released.name}")
    right = solutions(course, EXERCISES)
    wrong = {number: wrong_answer(number, right[number]) for number in WRONG if number not in right_in_naive}
    fill_in(naive, right | wrong | {"5.1": "Your answer here.", "5.2": NEVER_AGAIN})
    copy_the_first_answer(naive)

    nbgrader(course, "zip_collect", EXERCISES)
    nbgrader(course, "autograde", EXERCISES)

    found = grades(course, EXERCISES)
    assert found["correct"] == POINTS | {"5.1": 0}, "a person grades that one"
    assert found["empty"] == dict.fromkeys(POINTS, 0)
    assert found["naive"] == {
        number: points * (number in right_in_naive) for number, points in POINTS.items()
    } | {"5.2": POINTS["5.2"] / 2}
    for lesson in "012345":
        points = sum(points for number, points in found["naive"].items() if number.startswith(lesson))
        assert 0 < points < sum(points for number, points in POINTS.items() if number.startswith(lesson))

    graded = read(course / "autograded" / "naive" / EXERCISES / released.name)
    said = {exercise_of(cell): str(cell.outputs) for cell in graded.cells if cell.get("outputs")}
    for number in wrong.keys() - {"5.2"}:
        assert WRONG[number][0].hint in said[number], "refused, but for another reason"

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "foundry-lab") as book:
        submission = book.find_submission(EXERCISES, "correct")
        assert submission.needs_manual_grade
        book.find_grade("answer-5-1", EXERCISES, EXERCISES, "correct").manual_score = POINTS["5.1"]
        book.db.commit()
        assert (submission.score, submission.max_score) == (sum(POINTS.values()), sum(POINTS.values()))
