"""The notebooks' drawings: each Markdown image exists and says what it shows; each file stands by itself."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from foundry_lab.workbook import folder, notebooks

SVG = "{http://www.w3.org/2000/svg}"
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


@pytest.mark.parametrize("path", sorted((folder() / "images").glob("*.svg")), ids=lambda path: path.stem)
def test_a_drawing_says_what_it_shows_and_fetches_nothing(path: Path) -> None:
    """An SVG file with a script, or with parts from elsewhere, would be shown nowhere, or not offline."""
    root = ElementTree.parse(path).getroot()
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc", "")) > 100
    assert not list(root.iter(f"{SVG}script"))
    assert re.findall(r"https?://[^\"]+", path.read_text(encoding="utf-8")) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_images_of_a_notebook_exist_and_have_alt_text(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "<img" not in text
    for alt, target in IMAGE.findall(text):
        assert len(alt) > 40, target
        assert (path.parent / target).is_file(), target
