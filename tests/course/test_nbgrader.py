"""nbgrader itself, from a teacher's copy of the course to the points of three learners."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbgrader.apps import NbGraderAPI
from stub_server import StubService
from traitlets.config import Config

from foundry_lab.exercises import exercises
from foundry_lab.workbook.copies import copy_to

ASSIGNMENT = "01_basic"
"""Its checks have a small server of their own, and its lesson takes a stub: no model is needed."""
POINTS = sum(each.points for each in exercises().values() if each.number.startswith("1."))
NAIVE = {
    "1.1": "def body_until(model, question, word):\n"
    '    return {"model": model, "messages": [{"role": "user", "content": question}], "stop": word}',
    "1.2": "def ask(url, model, question, max_tokens):\n"
    '    body = {"model": model, "messages": [{"role": "user", "content": question}]}\n'
    '    reply = http.post(url + "/v1/chat/completions", json=body).json()\n'
    '    return reply["choices"][0]["message"]["content"]',
    "1.5": "def cost_per_token(tokens, seconds):\n    return sum(seconds) / sum(tokens)",
}
NAIVE_POINTS = exercises()["1.1"].points


def nbgrader(command: str, course: Path, url: str) -> None:
    environment = {
        **os.environ,
        "FOUNDRY_ENDPOINT": url,
        "JUPYTER_CONFIG_DIR": str(course / "no-config"),  # the user's own settings are none of this test's
        "IPYTHONDIR": str(course / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", command, ASSIGNMENT],
        cwd=course, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def hand_in(course: Path, student: str, answers: dict[str, str]) -> None:
    """Put a learner's copy, with these answers in it, where nbgrader collects it."""
    folder = course / "submitted" / student / ASSIGNMENT
    shutil.copytree(course / "release" / ASSIGNMENT, folder)
    file = folder / f"{ASSIGNMENT}.ipynb"
    book = nbformat.read(file, as_version=4)
    for cell in book.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if (number := grade_id.removeprefix("answer-").replace("-", ".")) in answers:
            cell.source = answers[number]
    nbformat.write(book, file)


def solutions(course: Path) -> dict[str, str]:
    book = nbformat.read(course / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb", as_version=4)
    return {
        cell.metadata.nbgrader.grade_id.removeprefix("answer-").replace("-", "."): cell.source
        for cell in book.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }


def points(course: Path) -> dict[str, float]:
    """What nbgrader wrote into its grade book."""
    query = (
        "select sa.student_id, sum(coalesce(g.manual_score, g.auto_score)) from grade g "
        "join submitted_notebook sn on g.notebook_id = sn.id "
        "join submitted_assignment sa on sn.assignment_id = sa.id group by sa.student_id"
    )
    with sqlite3.connect(course / "gradebook.db") as book:
        return dict(book.execute(query).fetchall())


def test_what_nbgrader_hands_out_is_what_learners_have(tmp_path: Path) -> None:
    """Who worked alone first, and in a class later, finds the same cells."""
    copy_to(tmp_path, teacher=True)
    course = tmp_path / "grading"
    config = Config()
    exec((course / "nbgrader_config.py").read_text(encoding="utf-8"), {"get_config": lambda: config})
    config.CourseDirectory.root = str(course)
    api = NbGraderAPI(config=config)
    for assignment in sorted(path.name for path in (course / "source").iterdir()):
        assert api.generate_assignment(assignment)["success"], assignment
        released = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4)
        lesson = nbformat.read(tmp_path / f"{assignment}.ipynb", as_version=4)
        assert [cell.source for cell in released.cells] == [cell.source for cell in lesson.cells]


@pytest.mark.usefixtures("_no_proxy")
def test_full_points_for_the_solutions_none_for_the_empty_copy_some_between(tmp_path: Path) -> None:
    copy_to(tmp_path, teacher=True)
    course = tmp_path / "grading"
    with StubService() as stub:
        nbgrader("generate_assignment", course, stub.url)
        released = (course / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb").read_text(encoding="utf-8")
        assert "BEGIN SOLUTION" not in released
        hand_in(course, "correct", solutions(course))
        hand_in(course, "empty", {})
        hand_in(course, "naive", NAIVE)
        nbgrader("autograde", course, stub.url)
    assert points(course) == {"correct": POINTS, "empty": 0, "naive": NAIVE_POINTS}
    assert 0 < NAIVE_POINTS < POINTS


def test_what_learning_platforms_put_into_a_zip_file_is_collected(tmp_path: Path) -> None:
    copy_to(tmp_path, teacher=True)
    course = tmp_path / "grading"
    archive = course / "downloaded" / ASSIGNMENT / "archive"
    archive.mkdir(parents=True)
    names = {
        "ada": "ada_2030-01-31-09-30-00_01_basic.ipynb",
        "grace": "grace_12345_67890_01_basic-1.ipynb",
        "Alan Turing": "Alan Turing_4711_assignsubmission_file/01_basic.ipynb",
    }
    with zipfile.ZipFile(archive / "class.zip", "w") as file:
        for student, name in names.items():
            file.writestr(name, student)
    nbgrader("zip_collect", course, "http://127.0.0.1:9")
    collected = {
        path.parts[-3]: path.read_text() for path in course.glob(f"submitted/*/*/{ASSIGNMENT}.ipynb")
    }
    assert collected == {student: student for student in names}


@pytest.fixture
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
