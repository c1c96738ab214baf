"""Copies of the course, for learners and for teachers."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from cli_stubs import write_notebook

from foundry_lab import workbook
from foundry_lab.workbook import WorkbookError
from foundry_lab.workbook.copies import copy_to

LEARNERS = ["01_basic.ipynb", "02_streaming.ipynb", "data/words.txt"]


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    for name in ("01_basic", "02_streaming", "solutions/01_basic_solutions"):
        write_notebook(
            folder / f"{name}.ipynb", f"# {name}, see [words](../data/words.txt)", f"print({name!r})"
        )
    (folder / "data").mkdir()
    (folder / "data" / "words.txt").write_text("one two")
    (folder / "grading").mkdir()
    (folder / "grading" / "nbgrader_config.py").write_text("c = get_config()")
    (folder / "source").mkdir()
    (folder / "source" / "01_basic.py").write_text("# %%")
    monkeypatch.setattr(workbook, "folder", lambda: folder)
    return folder


def test_copy_is_made_once(books: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "place"
    first = copy_to(target)
    assert first.copied == LEARNERS
    assert (target / "data" / "words.txt").read_text() == "one two"
    again = copy_to(target)
    assert (again.copied, again.kept, len(again.unchanged)) == ([], [], 3)


def test_copy_never_overwrites_work(books: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    copy_to(target)
    (target / "01_basic.ipynb").write_text("my work")
    (target / "02_streaming.ipynb").unlink()
    report = copy_to(target)
    assert report.kept == ["01_basic.ipynb"]
    assert report.copied == ["02_streaming.ipynb"]
    assert (target / "01_basic.ipynb").read_text() == "my work"


def test_copy_onto_a_file_names_it(books: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(WorkbookError, match=r"taken: .*Choose another folder"):
        copy_to(tmp_path / "taken")


def test_full_disk_leaves_no_half_notebook(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WorkbookError, match="No space left"):
        copy_to(tmp_path / "new")
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def with_output(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="what is to be guessed")]
    book.cells[1].execution_count = 1
    book.metadata["widgets"] = {"state": "of what was shown"}
    nbformat.write(book, path)


def test_a_learner_gets_neither_outputs_nor_solutions_nor_sources(books: Path, tmp_path: Path) -> None:
    with_output(books / "01_basic.ipynb")
    assert copy_to(tmp_path / "mine").copied == LEARNERS
    text = (tmp_path / "mine" / "01_basic.ipynb").read_text()
    assert "print('01_basic')" in text
    assert "guessed" not in text
    assert "what was shown" not in text
    assert nbformat.reads(text, as_version=4).cells[1].execution_count is None


def test_a_teacher_gets_everything_and_a_course_for_nbgrader(books: Path, tmp_path: Path) -> None:
    with_output(books / "01_basic.ipynb")
    copied = copy_to(tmp_path / "mine", teacher=True).copied
    assert copied == [
        *LEARNERS,
        "grading/nbgrader_config.py",
        "solutions/01_basic_solutions.ipynb",
        "grading/source/01_basic/01_basic.ipynb",
        "grading/source/01_basic/data/words.txt",
    ]
    assert "guessed" in (tmp_path / "mine" / "01_basic.ipynb").read_text()
    source = (tmp_path / "mine" / "grading" / "source" / "01_basic" / "01_basic.ipynb").read_text()
    assert "[words](data/words.txt)" in source, "a solution lies a folder deeper than an assignment"


def test_a_second_copy_for_teachers_changes_nothing(books: Path, tmp_path: Path) -> None:
    first = copy_to(tmp_path / "mine", teacher=True)
    again = copy_to(tmp_path / "mine", teacher=True)
    assert (again.copied, again.unchanged, again.kept) == ([], first.copied, [])
