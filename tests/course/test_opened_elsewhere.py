"""The lessons in other tools than JupyterLab: pages of nbconvert, parameters of papermill."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from foundry_lab import workbook

BOOKS = workbook.notebooks()
SHORT = 40
"""An alt text below that says nothing."""


class Images(HTMLParser):
    """Collects the images of a page: where each comes from, and its alt text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_page_made_in_another_folder_is_whole(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image says what it shows, and is in the page itself.

    But for the solutions' drawings: they lie a folder higher, where nbconvert doesn't look.
    """
    monkeypatch.chdir(tmp_path)
    page, _ = HTMLExporter(embed_images=True).from_filename(str(path))
    assert "No description has been provided" not in page
    images = Images()
    images.feed(page)
    book = nbformat.read(path, as_version=4)
    assert len(images.found) == pictures(book)
    for image in images.found:
        assert len(image["alt"] or "") > SHORT, str(image)[:200]
        source = image["src"] or ""
        assert source.startswith("data:image/") or (path.parent / source).is_file(), source
        assert source.startswith("data:image/") or path.parent.name == "solutions", source


def pictures(book: nbformat.NotebookNode) -> int:
    """How many images a notebook has: in its text, and in its stored outputs."""
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [output.get("data", {}) for output in outputs]
    return text.count("![") + sum(
        data.get("text/html", "").count("<img") + any(kind.startswith("image/") for kind in data)
        for data in shown
    )


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_papermill_finds_one_cell_of_parameters(path: Path) -> None:
    """It puts its own values into a cell behind that one: names and values only, and later cells use them."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (place,) = [number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", ())]
    assigned = [line for line in ast.parse(cells[place].source).body if not isinstance(line, ast.ImportFrom)]
    assert all(isinstance(line, ast.Assign) for line in assigned)
    names = {target.id for line in assigned for target in line.targets}
    later = "\n".join(cell.source for cell in cells[place + 1 :])
    unused = {name for name in names if not re.search(rf"\b{name}\b", later)}
    assert names
    assert not unused
    assert not [name for name in names if re.search(rf"^{name} =", later, re.MULTILINE)], "set once more"
