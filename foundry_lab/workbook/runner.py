"""Execute notebooks for `foundry-lab run`: executed copies and HTML pages; the originals stay as they are."""

import logging
import os
import re
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
import nbformat
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from tqdm import tqdm

from foundry_lab import workbook
from foundry_lab._ground.files import write_whole
from foundry_lab.workbook import WorkbookError, kernel
from foundry_lab.workbook.static_output import forget_run, freeze

HEADING = re.compile(r"^#+ *(.+)", re.MULTILINE)
NO_SCRIPT = "data:text/javascript,"
_PICTURE_ABOVE = re.compile(r"(!\[[^\]]*\]\()\.\./")


class RunResult(msgspec.Struct, frozen=True):
    """One executed notebook.

    Attributes:
        notebook: path of the executed copy.
        page: path of its HTML page.
        cells: code cells that ran without failing.
        seconds: wall time, the kernel's start included.
        failure: what to say of the cell after those, if it failed: what happened, its code, and the end of
            the traceback or what is known instead. Else empty.
    """

    notebook: Path
    page: Path
    cells: int
    seconds: float
    failure: str


def output_path(notebook: Path, output: Path) -> Path:
    """Return where the executed copy of a notebook goes: the workbook's subfolders are kept."""
    return output / (workbook.place(notebook) or notebook.name)


def check_outputs(notebooks: list[Path], output: Path) -> None:
    """Refuse an output folder in which a result would overwrite a notebook or another result of this run.

    Raises:
        WorkbookError: naming the files.
    """
    taken: dict[Path, Path] = {}
    for notebook in notebooks:
        result = output_path(notebook, output).resolve()
        # What a run wrote has its page beside it. The same file by whatever name: Work is work on macOS.
        if result.exists() and (result.samefile(notebook) or not result.with_suffix(".html").exists()):
            raise WorkbookError(
                f"{result} is no result of an earlier run, and would be overwritten. Choose another --output "
                "folder."
            )
        if result in taken:
            raise WorkbookError(
                f"{taken[result]} and {notebook} have the same name, and so would their results. "
                "Run them one by one, each with its own --output folder."
            )
        taken[result] = notebook


def run_notebook(notebook: Path, output: Path, *, timeout: int | None = None) -> RunResult:
    """Execute a notebook from top to bottom with this interpreter, and write its results.

    A notebook of the workbook runs in the output folder, its data files beside it; any other in its own.
    What ran before a failing cell, or before Ctrl-C, is written too. On a terminal a bar shows how far it is.

    Args:
        notebook: path of the notebook; it isn't changed.
        output: folder for NAME.ipynb and NAME.html, made if missing.
        timeout: limit for one cell in seconds; None for no limit.

    Raises:
        WorkbookError: the notebook can't be read or the results can't be written.
    """
    started = time.monotonic()
    book = _read(notebook)
    target = output_path(notebook, output)
    page = target.with_suffix(".html")
    try:
        work_dir = _working_directory(notebook, output)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            cells, failure = _execute(book, notebook.stem, work_dir, timeout)
        finally:
            freeze(book)
            _hide_machine(book, work_dir)
            executed = f"{nbformat.writes(book)}\n".encode()
            write_whole(page, _html(book, target.stem, notebook.parent).encode())
            write_whole(target, executed)
    except OSError as problem:
        raise WorkbookError(
            f"The results of {notebook.name} can't be written to {output}: {problem.strerror or problem}. "
            "Choose another folder with --output."
        ) from problem
    return RunResult(target, page, cells, time.monotonic() - started, failure)


def _read(notebook: Path) -> NotebookNode:
    """Read a notebook and drop its outputs, so that none of an earlier run is taken for this one's."""
    try:
        book = nbformat.read(notebook, as_version=4)
        nbformat.validate(book)
    except OSError as error:
        raise WorkbookError(f"{notebook} can't be read: {error.strerror or error}.") from error
    except Exception as error:  # nbformat raises many kinds for what isn't a notebook
        raise WorkbookError(
            f"{notebook} is not a Jupyter notebook: {str(error).strip().splitlines()[0][:200]} "
            "If it was cut short or edited by hand, take a fresh copy: foundry-lab new FOLDER"
        ) from error
    forget_run(book)
    return book


def _working_directory(notebook: Path, output: Path) -> Path:
    if not workbook.place(notebook):
        return notebook.parent
    for name, file in workbook.data_files().items():
        copy = output / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, file.read_bytes())
    return output_path(notebook, output).parent.resolve()


def _execute(book: NotebookNode, name: str, work_dir: Path, timeout: int | None) -> tuple[int, str]:
    """Run cell by cell; return how many code cells ran, and what to say of one that failed."""
    client = NotebookClient(
        book,
        kernel_name=NATIVE_KERNEL_NAME,
        timeout=timeout,
        record_timing=False,  # time stamps in every cell would drown what has changed
        coalesce_streams=True,  # a streamed answer is one output, not one for each token
        shutdown_kernel="immediate",  # after a failure or Ctrl-C there is nothing to wait for
        resources={"metadata": {"path": str(work_dir)}},
    )
    client.create_kernel_manager().kernel_spec_manager = kernel.ThisPythonSpecManager()
    total = sum(_has_code(cell) for cell in book.cells)
    done = 0
    # Not client.execute(): its signal handlers turn Ctrl-C into an assertion error.
    with ExitStack() as stack:
        stderr = stack.enter_context(tempfile.TemporaryFile())
        bar = stack.enter_context(
            tqdm(desc=name, total=total, unit="cell", disable=None, leave=False, dynamic_ncols=True)
        )
        try:
            stack.enter_context(client.setup_kernel(stderr=stderr, env=kernel.environment()))
        except RuntimeError as error:
            raise WorkbookError(
                f"The notebook's kernel did not start: {error}. Try: foundry-lab doctor"
            ) from error
        for index, cell in enumerate(book.cells):
            if not _has_code(cell):
                if heading := HEADING.search(cell.source):
                    bar.set_postfix_str(heading[1][:40])
                continue
            try:
                client.execute_cell(cell, index, execution_count=done + 1)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                return done, _failure(error, done + 1, cell, timeout, stderr)
            done += 1
            bar.update()
        client.set_widgets_metadata()
        client.shutdown_kernel = "graceful"
    return done, ""


def _has_code(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _failure(
    error: Exception, number: int, cell: NotebookNode, timeout: int | None, stderr: IO[bytes]
) -> str:
    lines: list[str] = []
    if isinstance(error, CellTimeoutError):
        what = f"did not finish within {timeout} s. Give it longer with --timeout"
    elif isinstance(error, CellExecutionError):
        what = f"raised {error.ename}"
        lines = strip_ansi(error.traceback).strip().splitlines()
    else:
        what = "ended the kernel: the Python process behind the notebook is gone, perhaps for want of memory"
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace").strip().splitlines()
        lines = [line for line in said if "without encryption" not in line]
    source = textwrap.indent(cell.source, "    ")
    return "\n".join([f"Code cell {number} {what}.", "", source, "", *lines[-12:]])


def _hide_machine(book: NotebookNode, work_dir: Path) -> None:
    """Replace this machine's paths in everything the run produced, so that the copies can be handed on."""
    names = {
        str(work_dir): ".",
        str(Path(__file__).parents[1]): "foundry_lab",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        tempfile.gettempdir(): "<tmp>",
        os.path.realpath(tempfile.gettempdir()): "<tmp>",  # a link on macOS
        str(Path.home()): "~",
    }
    names |= {path.replace("\\", "\\\\"): name for path, name in names.items()}  # Windows, inside a repr
    known = sorted((path for path in names if path != Path(path).anchor), key=len, reverse=True)
    # A picture in HTML is taken whole, and stays: its base64 may look like anything.
    pattern = re.compile(
        r"data:[^,\s]*;base64,[\w+/=]*|(?:" + "|".join(map(re.escape, known)) + r")(?![\w.-])"
    )

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: names.get(match[0], match[0]), value)
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):  # images are base64, which may look like anything
            return NotebookNode({k: v if k.startswith("image/") else clean(v) for k, v in value.items()})
        return value

    book.metadata = clean(book.metadata)  # which has the widgets' states
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = clean(cell.outputs)


def _html(book: NotebookNode, title: str, folder: Path) -> str:
    """Make the notebook one page, with the pictures in `folder` that it names; it isn't used after that.

    Scripts from the network are named only where the page needs them.
    """
    if folder.name == workbook.SOLUTIONS:  # whose pictures lie above it, where nbconvert doesn't read
        folder = folder.parent
        for cell in book.cells:
            cell.source = _PICTURE_ABOVE.sub(r"\1", cell.source)
    log = logging.getLogger(f"{__name__}.html")
    log.setLevel(logging.ERROR)  # it warns of every plot without an alternative text
    exporter = HTMLExporter(template_name="lab", embed_images=True, log=log)
    if "widgets" not in book.metadata:
        exporter.require_js_url = NO_SCRIPT
    if not any(cell.cell_type == "markdown" and "$" in cell.source for cell in book.cells):
        exporter.mathjax_url = NO_SCRIPT
    beside = {"name": title, "path": str(folder)}
    page, _ = exporter.from_notebook_node(book, resources={"metadata": beside})
    return str(page)
