"""Make the notebooks from their sources: see README.md beside this file.

python notebooks/source/generate.py [--execute | --check] [NAME]...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.preprocessors import ClearSolutions

from foundry_lab.exercises import exercises

SOURCES = Path(__file__).resolve().parent
NOTEBOOKS = SOURCES.parent
EXERCISES = SOURCES / "exercises"
STUB = "# YOUR CODE HERE"
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_HEAD = re.compile(r"^# %%(?P<head>.*)$", re.MULTILINE)
_SETTING = re.compile(r'(\w+)=(\[[^\]]*\]|"[^"]*"|\d+)')
_TEXT = re.compile(r'\A"""\n(.*)\n"""\Z', re.DOTALL)
_PATH_BELOW = re.compile(r'(\]\(|Path\("|src=")(?=(?:data|images)/|glossary\.md|\d\d_\w+\.ipynb)')


class SourceError(Exception):
    """A source can't be read as cells; the message says where."""


class Part(NamedTuple):
    """One cell of a source: its text and what stands in its head."""

    markdown: bool
    text: str
    settings: dict[str, Any]


def parts(source: str) -> Iterator[Part]:
    """Yield the cells of a source, those without content too.

    Raises:
        SourceError: a Markdown cell without its quotes, or a head that can't be read.
    """
    heads = list(_HEAD.finditer(source))
    ends = [head.start() for head in heads[1:]] + [len(source)]
    for head, end in zip(heads, ends, strict=True):
        words = head["head"].strip()
        markdown = words.startswith("[markdown]")
        words = words.removeprefix("[markdown]")
        if _SETTING.sub("", words).strip():
            raise SourceError(f"line {source.count(chr(10), 0, head.start()) + 1}: {head[0]!r}")
        settings = {name: json.loads(value) for name, value in _SETTING.findall(words)}
        text = source[head.end() : end].strip("\n")
        if markdown and text:
            quoted = _TEXT.match(text)
            if not quoted:
                raise SourceError(f'Markdown without """ on lines of their own: {text[:60]!r}')
            text = quoted[1].strip("\n")
        yield Part(markdown, text, settings)


def exercise_cells(name: str) -> dict[str, list[Part]]:
    """Return the cells of each exercise of a notebook, by the exercise's number."""
    found: dict[str, list[Part]] = {}
    path = EXERCISES / f"{name}.py"
    for part in parts(path.read_text(encoding="utf-8")) if path.exists() else ():
        if number := part.settings.get("exercise"):
            found[number] = []
        found[next(reversed(found))].append(part)
    return found


def cells(source: Path) -> Iterator[Part]:
    """Yield a notebook's cells, with its exercises in their places.

    Raises:
        SourceError: an exercise without a place, or a place without an exercise.
    """
    waiting = exercise_cells(source.stem)
    for part in parts(source.read_text(encoding="utf-8")):
        number = part.settings.get("exercise")
        if number and number not in waiting:
            raise SourceError(
                f"{source.name} has a place for exercise {number}, which isn't in {EXERCISES.name}/"
            )
        if number:
            yield from waiting.pop(number)
        elif part.text:
            yield part
    if waiting:
        raise SourceError(f"{source.name} has no place for the exercises {', '.join(waiting)}")


def whole(source: Path) -> NotebookNode:
    """Return the notebook of a source with its solutions, without outputs."""
    book = new_notebook(metadata=json.loads(json.dumps(KERNEL)))
    seen: dict[str, int] = {}
    for part in cells(source):
        cell = (new_markdown_cell if part.markdown else new_code_cell)(part.text)
        cell.metadata = _metadata(part)
        cell.id = _id(part)
        seen[cell.id] = seen.get(cell.id, 0) + 1
        if seen[cell.id] > 1:
            cell.id += f"-{seen[cell.id]}"
        book.cells.append(cell)
    return book


def _id(part: Part) -> str:
    """Return an id that stays when cells are put in before: exercises by number, others by their text."""
    for kind in ("exercise", "answer", "check"):
        if kind in part.settings:
            return f"{kind}-{part.settings[kind].replace('.', '-')}"
    return hashlib.sha256(part.text.encode()).hexdigest()[:10]


def _metadata(part: Part) -> NotebookNode:
    metadata: dict[str, Any] = {}
    if tags := part.settings.get("tags"):
        metadata["tags"] = tags
    answer, check = "answer" in part.settings, "check" in part.settings
    if answer or check:
        points = exercises()[part.settings["check"]].points if check else part.settings.get("points")
        metadata["nbgrader"] = {
            "grade": points is not None,
            "grade_id": _id(part),
            "locked": check,
            "schema_version": 3,
            "solution": answer,
            "task": False,
        } | ({"points": points} if points is not None else {})
    return NotebookNode(nbformat.from_dict(metadata))


def lesson(book: NotebookNode) -> NotebookNode:
    """Return the learner's notebook: nbgrader takes the solutions out."""
    copy = nbformat.from_dict(json.loads(json.dumps(book)))
    clear = ClearSolutions(code_stub={"python": STUB}, text_stub="Your answer here.")
    stripped, _ = clear.preprocess(copy, {})
    return stripped


def solutions(book: NotebookNode) -> NotebookNode:
    """Return the solutions' notebook, which lies one folder deeper than what it names."""
    deeper = nbformat.from_dict(json.loads(json.dumps(book)))
    for cell in deeper.cells:
        cell.source = _PATH_BELOW.sub(r"\1../", cell.source)
    return deeper


def targets(source: Path) -> dict[Path, NotebookNode]:
    """Return what a source gives: the two notebooks without outputs, by path."""
    book = whole(source)
    return {
        NOTEBOOKS / f"{source.stem}.ipynb": lesson(book),
        NOTEBOOKS / "solutions" / f"{source.stem}_solutions.ipynb": solutions(book),
    }


def with_outputs(book: NotebookNode, path: Path) -> NotebookNode:
    """Return the notebook with the outputs that the file holds for cells of the same code."""
    if not path.exists():
        return book
    old = nbformat.read(path, as_version=4)
    known = {(cell.id, cell.source): cell for cell in old.cells if cell.cell_type == "code"}
    for cell in book.cells:
        if cell.cell_type == "code" and (stored := known.get((cell.id, cell.source))):
            cell.outputs, cell.execution_count = stored.outputs, stored.execution_count
    if "widgets" in old.metadata:
        book.metadata["widgets"] = old.metadata["widgets"]
    return book


def generate(source: Path) -> dict[Path, str]:
    """Return the files' text for a source, with the outputs that are stored today."""
    return {path: nbformat.writes(with_outputs(book, path)) + "\n" for path, book in targets(source).items()}


def stale(source: Path) -> list[Path]:
    """Return the files that are not what the source gives."""
    return [
        path
        for path, text in generate(source).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def execute(path: Path) -> None:
    """Run a notebook of the workbook and store its outputs in it."""
    from foundry_lab.workbook import runner

    with tempfile.TemporaryDirectory() as folder:
        result = runner.run_notebook(path, Path(folder), timeout=600)
        if result.failure:
            raise SystemExit(f"{path.name}: {result.failure}")
        done = nbformat.read(result.notebook, as_version=4)
        for cell in done.cells:
            if "nbval-check-output" in cell.metadata.get(
                "tags", ()
            ):  # that it started a service isn't checked
                cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
        path.write_text(nbformat.writes(done) + "\n", encoding="utf-8", newline="\n")
        print(f"{path.stem}: {result.cells} code cells in {result.seconds:.1f} s")


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their sources.")
    parser.add_argument("names", nargs="*", help="beginnings of sources' names; all if none is given")
    parser.add_argument("--execute", action="store_true", help="run them against the service")
    parser.add_argument("--check", action="store_true", help="write nothing, only say what is stale")
    options = parser.parse_args()
    chosen = [
        path
        for path in sorted(SOURCES.glob("[0-9]*.py"))
        if not options.names or path.stem.startswith(tuple(options.names))
    ]
    if options.check:
        old = [path for source in chosen for path in stale(source)]
        sys.exit("\n".join(f"stale: {path.relative_to(NOTEBOOKS)}" for path in old) or 0)
    for source in chosen:
        for path, text in generate(source).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        if options.execute:
            for path in targets(source):
                execute(path)


if __name__ == "__main__":
    main()
