"""Copies of the course: one to learn from, and one to teach with."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nbformat

from foundry_lab import workbook
from foundry_lab._ground.files import write_whole
from foundry_lab.workbook import GRADING, SOLUTIONS, WorkbookError
from foundry_lab.workbook.static_output import forget_run

_ONE_UP = re.compile(r'(\]\(|Path\("|src=")\.\./')
_LINK = re.compile(r"\]\((?=(\d\d_\w+)\.ipynb\))")


class CopyReport(msgspec.Struct, frozen=True):
    """What `copy_to` did, as paths below the target folder.

    Attributes:
        copied: files that were not there before.
        unchanged: files that were there and equal.
        kept: files that were there and differ; they were not touched.
    """

    copied: list[str]
    unchanged: list[str]
    kept: list[str]


def copy_to(target: Path, *, teacher: bool = False) -> CopyReport:
    """Copy the course into a folder, made if missing. What is there stays as it is.

    Args:
        target: the folder.
        teacher: everything as it is, the solutions too, and a course for nbgrader. A learner gets the
            notebooks without the solutions, and without outputs, which would answer what is to be guessed.

    Raises:
        WorkbookError: the folder can't be written.
    """
    report = CopyReport(copied=[], unchanged=[], kept=[])
    try:
        for name, content in _for_teachers() if teacher else _for_learners():
            copy = target / name
            if copy.exists():
                same = copy.is_file() and copy.read_bytes() == content
                (report.unchanged if same else report.kept).append(name)
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, content)
            report.copied.append(name)
    except OSError as error:
        raise WorkbookError(
            f"The notebooks can't be copied to {target}: {error.strerror or error}. Choose another folder."
        ) from error
    return report


def _for_learners() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents."""
    for name, path in workbook.files().items():
        if not name.startswith((f"{SOLUTIONS}/", f"{GRADING}/")):
            yield name, _without_outputs(path) if path.suffix == ".ipynb" else path.read_bytes()


def _for_teachers() -> Iterator[tuple[str, bytes]]:
    for name, path in workbook.files().items():
        yield name, path.read_bytes()
    for path in sorted((workbook.folder() / SOLUTIONS).glob("*_solutions.ipynb")):
        assignment = path.stem.removesuffix("_solutions")
        source = f"{GRADING}/source/{assignment}"
        yield f"{source}/{assignment}.ipynb", _without_outputs(path, raise_paths=True)
        for name, file in workbook.data_files().items():
            content = file.read_bytes()
            if file.suffix == ".md":
                content = _as_assignment(content.decode()).encode()
            yield f"{source}/{name}", content


def _without_outputs(path: Path, *, raise_paths: bool = False) -> bytes:
    """Return a notebook as one that was never run; `raise_paths` for an assignment of nbgrader."""
    book = nbformat.read(path, as_version=4)
    forget_run(book)
    if raise_paths:
        for cell in book.cells:
            cell.source = _as_assignment(_ONE_UP.sub(r"\1", cell.source))
    return (nbformat.writes(book) + "\n").encode()


def _as_assignment(text: str) -> str:
    """Return text whose links to notebooks lead where nbgrader has them, each in a folder of its own."""
    return _LINK.sub(r"](../\1/", text)
