"""Every notebook as a learner runs it: in JupyterLab, all cells, in the light and the dark theme."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from hurried import hurry
from lab import Lab, faint_texts, picture_of, run_all, use_theme

from foundry_lab import workbook

pytestmark = pytest.mark.browser

LESSONS = [path for path in workbook.notebooks() if path.parent == workbook.folder()]
IMAGES = """root => [...root.querySelectorAll(".jp-Cell img")].map(image => ({
  alt: image.alt, width: image.naturalWidth, loaded: image.complete,
}))"""
SHORT = 40
"""An alt text below that says nothing: JupyterLab gives images without one the text "Image"."""


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_readable(path: Path, jupyterlab: Lab, tmp_path: Path) -> None:
    shutil.copytree(workbook.folder(), jupyterlab.root, dirs_exist_ok=True)
    lesson = nbformat.read(path, as_version=4)
    for cell in lesson.cells:
        hurry(cell)
    nbformat.write(lesson, jupyterlab.root / path.name)
    with jupyterlab.open_file(path.name) as page:
        book = run_all(page)
        nbformat.write(book, tmp_path / path.name)
        for number, cell in enumerate(book.cells):
            if cell.cell_type == "code":
                assert cell.execution_count, f"cell {number} wasn't run"
                for output in cell.outputs:
                    assert output.output_type != "error", f"cell {number}: {output.get('evalue')}"
                    assert "image/png" not in output.get("data", {}), f"{number}: no alt text"
        notebook = page.locator(".jp-Notebook")
        for image in notebook.evaluate(IMAGES):
            assert len(image["alt"]) > SHORT, f"no alt text: {image}"
            assert image["width"] > 0, f"not shown: {image['alt']}"
        for theme in ("light", "dark"):
            use_theme(page, theme)
            picture_of(page, tmp_path / f"{path.stem}-{theme}.png")
            for output in page.locator(".jp-OutputArea-output .widget-vbox, .jp-RenderedHTMLCommon").all():
                assert faint_texts(output) == []
