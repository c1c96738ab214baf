"""Finding the notebooks."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_stubs import write_notebook

from foundry_lab import workbook
from foundry_lab.errors import ConfigurationError
from foundry_lab.workbook import WorkbookError


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    for name in ("01_basic", "02_streaming", "02_stream_extra", "solutions/01_basic_solutions"):
        write_notebook(folder / f"{name}.ipynb", f"print({name!r})")
    (folder / "data").mkdir()
    (folder / "data" / "words.txt").write_text("one two")
    (folder / "grading").mkdir()
    (folder / "grading" / "nbgrader_config.py").write_text("c = get_config()")
    write_notebook(folder / ".ipynb_checkpoints" / "01_basic-checkpoint.ipynb", "1")
    monkeypatch.setattr(workbook, "folder", lambda: folder)
    return folder


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_notebooks_are_in_reading_order_without_checkpoints(books: Path) -> None:
    expected = ["01_basic", "02_stream_extra", "02_streaming", "01_basic_solutions"]
    assert names(workbook.notebooks()) == expected
    assert workbook.data_files() == {"data/words.txt": books / "data" / "words.txt"}


@pytest.mark.parametrize("name", ["01", "01_basic", "01_basic.ipynb", "01_b"])
def test_name_may_be_short(books: Path, name: str) -> None:
    assert workbook.find([name]) == [books / "01_basic.ipynb"]


def test_name_in_a_subfolder(books: Path) -> None:
    assert names(workbook.find(["solutions/01"])) == ["01_basic_solutions"]


def test_whole_name_wins_over_a_longer_one(books: Path) -> None:
    write_notebook(books / "02_stream.ipynb", "1")
    assert names(workbook.find(["02_stream"])) == ["02_stream"]


def test_order_is_kept_and_repeats_are_dropped(books: Path) -> None:
    assert names(workbook.find(["02_streaming", "01", "02_streaming"])) == ["02_streaming", "01_basic"]


def test_path_of_an_own_notebook(books: Path, tmp_path: Path) -> None:
    own = write_notebook(tmp_path / "mine.ipynb", "1")
    assert workbook.find([str(own)]) == [own.resolve()]


def test_ambiguous_name_lists_the_choices(books: Path) -> None:
    with pytest.raises(WorkbookError, match="any of: 02_stream_extra, 02_streaming"):
        workbook.find(["02"])


def test_unknown_name_suggests_the_closest(books: Path) -> None:
    with pytest.raises(WorkbookError, match=r"Did you mean 02_streaming\? The workbook has: 01_basic"):
        workbook.find(["02_straeming"])


@pytest.mark.parametrize("name", ["~nobody-of-this-name/01.ipynb", "x" * 300 + ".ipynb"])
def test_a_path_that_no_file_has_is_an_error(books: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be a file"):
        workbook.find([name])


@pytest.mark.parametrize("name", ["", "/", "no/such.ipynb"])
def test_nonsense_names_are_refused(books: Path, name: str) -> None:
    with pytest.raises(WorkbookError, match="There is no notebook"):
        workbook.find([name])


def test_missing_notebooks_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "_PACKAGE", tmp_path / "foundry_lab")
    with pytest.raises(WorkbookError, match="pip install"):
        workbook.folder()


def test_installed_notebooks_win_over_a_folder_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "_PACKAGE", tmp_path / "foundry_lab")
    write_notebook(tmp_path / "notebooks" / "01.ipynb", "1")
    assert workbook.folder() == tmp_path / "notebooks"
    write_notebook(tmp_path / "foundry_lab" / "_notebooks" / "01.ipynb", "1")
    assert workbook.folder() == tmp_path / "foundry_lab" / "_notebooks"
