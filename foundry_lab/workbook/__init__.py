"""Where the notebooks are, and which one a name means."""

from collections.abc import Iterable
from pathlib import Path

import lazy_loader

from foundry_lab._ground.checks import did_you_mean
from foundry_lab._ground.files import as_path
from foundry_lab.errors import FoundryError

__getattr__, _, _ = lazy_loader.attach(__name__, ["plots", "widgets"])  # for `from foundry_lab import plots`

_PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = "source"
"""Folder, in a checkout, of what the notebooks are generated from."""
SOLUTIONS = "solutions"
"""Folder of the notebooks with answers to the exercises."""
GRADING = "grading"
"""Folder that is a course for nbgrader in a teacher's copy."""


class WorkbookError(FoundryError):
    """The notebooks can't be found, read or copied, or their results can't be written."""


def folder() -> Path:
    """Return the folder of the notebooks: inside an installed package, or of the checkout.

    Raises:
        WorkbookError: neither is there.
    """
    for candidate in (_PACKAGE / "_notebooks", _PACKAGE.parent / "notebooks"):
        if next(candidate.glob("*.ipynb"), None):
            return candidate
    raise WorkbookError(
        "The notebooks are missing from this installation. "
        "Install it again: python -m pip install --force-reinstall --no-deps foundry-lab"
    )


def place(notebook: Path) -> Path | None:
    """Return where in the workbook a notebook is, or None for one that isn't the workbook's."""
    try:
        return notebook.relative_to(folder())
    except (ValueError, WorkbookError):
        return None


def files() -> dict[str, Path]:
    """Return the files of the course by name below its folder, without what they are made from."""
    found = {}
    for path in sorted(folder().rglob("*")):
        name = path.relative_to(folder())
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != SOURCES:
            found[name.as_posix()] = path
    return found


def notebooks() -> list[Path]:
    """Return the workbook's notebooks in reading order: its own folder first, then subfolders."""
    found = [path for path in files().values() if path.suffix == ".ipynb"]
    return sorted(found, key=lambda path: (len(path.parts), path))


def data_files() -> dict[str, Path]:
    """Return the workbook's other files, which the notebooks read, by name."""
    others = {name: path for name, path in files().items() if path.suffix != ".ipynb"}
    return {name: path for name, path in others.items() if not name.startswith(f"{GRADING}/")}


def find(names: Iterable[str]) -> list[Path]:
    """Return the notebooks that the names mean, in the order given and each once.

    A name is a path to a notebook, a notebook's name with or without `.ipynb`, or its beginning (`01`).

    Raises:
        ConfigurationError: a name that no file can have.
        WorkbookError: a name means no notebook, or more than one.
    """
    return list(dict.fromkeys(_find_one(name) for name in names))


def _find_one(name: str) -> Path:
    path = as_path(name, "notebook")
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    known = {book.relative_to(folder()).with_suffix("").as_posix(): book for book in notebooks()}
    wanted = Path(name).as_posix().removesuffix(".ipynb")
    if wanted in known:
        return known[wanted]
    starts = [key for key in known if wanted and key.startswith(wanted)]
    if len(starts) == 1:
        return known[starts[0]]
    if starts:
        raise WorkbookError(f"{name!r} could be any of: {', '.join(starts)}. Give more of the name.")
    raise WorkbookError(
        f"There is no notebook {name!r}. {did_you_mean(wanted, known)}The workbook has: {', '.join(known)}. "
        "A notebook of your own is given by its path, ending in .ipynb."
    )
