"""`foundry-lab run` on tiny notebooks with real kernels; the service is a stub."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from cli_stubs import StubEngine, outputs, write_notebook
from click.testing import CliRunner, Result
from processes import runs

from foundry_lab import workbook
from foundry_lab.workbook import runner
from foundry_lab.workbook.cli import main


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    monkeypatch.setattr(workbook, "folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["run", *args])


def test_runs_all_and_writes_copies_and_pages(
    books: Path, engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own interpreter, data files beside, plots inline, no path of the machine, proxies ignored."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps(
            {"argv": ["no-such-python", "{connection_file}"], "display_name": "x", "language": "python"}
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("EXPECTED", sys.executable)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    (books / "data").mkdir(parents=True)
    (books / "data" / "words.txt").write_text("one two")
    first = write_notebook(
        books / "01_basic.ipynb",
        "# Basics",
        "import os, sys, tempfile\nfrom pathlib import Path",
        "print(sys.executable == os.environ['EXPECTED'], Path('data/words.txt').read_text())",
        "print(sys.executable, os.getcwd(), tempfile.gettempdir(), Path.home())",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "import ipywidgets\nipywidgets.IntSlider()",
    )
    write_notebook(books / "02_streaming.ipynb", "import asyncio\nawait asyncio.sleep(0)", "40 + 2")
    original = first.read_bytes()

    result = run()

    assert result.exit_code == 0, result.output
    assert "01_basic: ok, 5 code cells in" in result.output
    done = tmp_path / "foundry-lab-output" / "01_basic.ipynb"
    assert "True one two" in outputs(done)
    assert "<python>" in outputs(done)
    for private in (str(tmp_path), sys.prefix, str(Path.home()) + "\n"):
        assert private not in done.read_text()
        assert private not in done.with_suffix(".html").read_text(encoding="utf-8")
    plot = nbformat.read(done, as_version=4).cells[4].outputs[0]
    assert plot.data["image/png"]
    assert "data:image/png;base64" in done.with_suffix(".html").read_text(encoding="utf-8")
    assert nbformat.read(done, as_version=4).metadata.widgets
    assert outputs(done.with_name("02_streaming.ipynb")) == "42"
    assert first.read_bytes() == original
    assert engine.calls == ["ensure", "stop"]


def test_page_without_widgets_or_formulas_needs_no_network_scripts(
    books: Path, engine: StubEngine, tmp_path: Path
) -> None:
    write_notebook(books / "plain.ipynb", "# Plain", "1")
    write_notebook(books / "formula.ipynb", "# Little's law $L = \\lambda W$", "1")
    assert run("-o", "out").exit_code == 0
    assert '<script src="http' not in (tmp_path / "out" / "plain.html").read_text(encoding="utf-8")
    assert "mathjax/" in (tmp_path / "out" / "formula.html").read_text(encoding="utf-8")


def test_pictures_beside_a_notebook_are_in_its_page(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    """The page is read elsewhere, where the picture isn't."""
    write_notebook(books / "drawn.ipynb", "# Drawn\n\n![two boxes](images/drawn.svg)", "1")
    (books / "images").mkdir(exist_ok=True)
    (books / "images" / "drawn.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert run("-o", "out").exit_code == 0
    page = (tmp_path / "out" / "drawn.html").read_text(encoding="utf-8")
    assert "images/drawn.svg" not in page
    assert 'src="data:image/svg+xml;base64,' in page


def test_pictures_above_a_solution_are_in_its_page(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    text = "# Drawn\n\n![two boxes](../images/drawn.svg)"
    write_notebook(books / "solutions" / "drawn_solutions.ipynb", text, "1")
    (books / "images").mkdir()
    (books / "images" / "drawn.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert run("-o", "out").exit_code == 0
    (page,) = (tmp_path / "out").rglob("drawn_solutions.html")
    assert 'src="data:image/svg+xml;base64,' in page.read_text(encoding="utf-8")


def test_widgets_have_a_static_form_in_the_copies(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    write_notebook(
        books / "widgets.ipynb",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='cards'): pass",
        "from foundry_lab import widgets\nwidgets.ChatPanel()",
        "import ipywidgets\n"
        "class Both(ipywidgets.IntSlider):\n"
        "    def _repr_mimebundle_(self, **kwargs):\n"
        "        return super()._repr_mimebundle_(**kwargs) | {'text/html': '<b>still</b>'}\n"
        "Both()",
    )
    assert run("-o", "out").exit_code == 0
    copy = nbformat.read(tmp_path / "out" / "widgets.ipynb", as_version=4)
    bar, panel, both = (cell.outputs[0].data for cell in copy.cells)
    assert "cards: 100%" in bar["text/plain"] and "3/3" in bar["text/plain"]
    assert "chat panel" in panel["text/html"]
    assert both["text/html"] == "<b>still</b>"
    assert not any("widget-view" in kind for data in (bar, panel, both) for kind in data)
    assert "widgets" not in copy.metadata, "nothing needs the stored state"
    page = (tmp_path / "out" / "widgets.html").read_text(encoding="utf-8")
    assert "cards: 100%" in page and '<script src="http' not in page


def test_service_that_was_running_is_left_alone(books: Path, engine: StubEngine) -> None:
    write_notebook(books / "01.ipynb", "1")
    engine.state = object()
    assert run("01").exit_code == 0
    assert engine.calls == ["ensure"]


def test_keep_leaves_the_service(books: Path, engine: StubEngine) -> None:
    write_notebook(books / "01.ipynb", "1")
    assert run("01", "--keep").exit_code == 0
    assert engine.calls == ["ensure"]


def test_failing_cell_is_shown_and_the_others_still_run(
    books: Path, engine: StubEngine, tmp_path: Path
) -> None:
    write_notebook(
        books / "01.ipynb", "# Top", "before = 1", "def f():\n    return before / 0\nf()", "after = 1"
    )
    write_notebook(books / "02.ipynb", "print('second')")

    result = run()

    assert result.exit_code == 1
    assert "01: Code cell 2 raised ZeroDivisionError." in result.stderr
    assert "    def f():\n        return before / 0\n    f()" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "\x1b" not in result.stderr
    assert "1 of 2 notebooks failed" in result.stderr
    assert "01: FAILED at code cell 2 after" in result.stdout
    partial = nbformat.read(tmp_path / "foundry-lab-output" / "01.ipynb", as_version=4)
    assert [cell.execution_count for cell in partial.cells if cell.cell_type == "code"] == [1, 2, None]
    assert "division by zero" in (tmp_path / "foundry-lab-output" / "01.html").read_text(encoding="utf-8")
    assert outputs(tmp_path / "foundry-lab-output" / "02.ipynb") == "second\n"
    assert engine.calls == ["ensure", "stop"]


def test_errors_on_purpose_are_no_failure(books: Path, engine: StubEngine) -> None:
    path = write_notebook(books / "01.ipynb", "1 / 0", "print('on')")
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata.tags = ["raises-exception"]
    nbformat.write(book, path)
    assert run().exit_code == 0


def test_cell_over_its_time_limit(books: Path, engine: StubEngine) -> None:
    write_notebook(books / "01.ipynb", "import time\ntime.sleep(600)")
    started = time.monotonic()
    result = run("--timeout", "1")
    assert result.exit_code == 1
    assert "Code cell 1 did not finish within 1 s. Give it longer with --timeout" in result.stderr
    assert time.monotonic() - started < 300


def test_dead_kernel_says_so_and_shows_its_last_words(books: Path, engine: StubEngine) -> None:
    write_notebook(books / "01.ipynb", "import os\nos.write(2, b'out of luck')\nos._exit(3)")
    result = run()
    assert result.exit_code == 1
    assert "Code cell 1 ended the kernel" in result.stderr
    assert "out of luck" in result.stderr


def test_own_notebook_runs_in_its_own_folder(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    write_notebook(books / "01.ipynb", "1")
    own = write_notebook(
        tmp_path / "mine" / "own.ipynb", "from pathlib import Path\nprint(Path('x.txt').read_text())"
    )
    (own.parent / "x.txt").write_text("beside me")
    assert run(str(own), "-o", "out").exit_code == 0
    assert "beside me" in outputs(tmp_path / "out" / "own.ipynb")


def test_outputs_of_an_earlier_run_are_not_taken_for_this_one(
    books: Path, engine: StubEngine, tmp_path: Path
) -> None:
    path = write_notebook(books / "01.ipynb", "1 / 0", "2")
    book = nbformat.read(path, as_version=4)
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="stale")]
    nbformat.write(book, path)
    assert run("-o", "out").exit_code == 1
    assert "stale" not in (tmp_path / "out" / "01.ipynb").read_text()


def test_originals_are_known_by_another_name(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    """A file system that ignores case has two names for one file; here a hard link does."""
    path = write_notebook(books / "01.ipynb", "1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "01.ipynb").hardlink_to(path)
    result = run("--output", "out")
    assert result.exit_code == 1
    assert "is no result of an earlier run" in result.stderr


def test_originals_are_never_overwritten(books: Path, engine: StubEngine) -> None:
    write_notebook(books / "01.ipynb", "1")
    result = run("--output", str(books))
    assert result.exit_code == 1
    assert "is no result of an earlier run" in result.stderr
    assert engine.calls == []


def test_a_learners_own_copy_is_no_result_and_stays(
    books: Path, engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`foundry-lab run 01 -o .` in his folder means the installed notebook, and would take his answers."""
    write_notebook(books / "01.ipynb", "1")
    folder = tmp_path / "mine"
    folder.mkdir()
    own = write_notebook(folder / "01.ipynb", "'my answer'")
    monkeypatch.chdir(folder)
    result = run("01", "-o", ".")
    assert result.exit_code == 1 and "is no result of an earlier run" in result.stderr
    assert "my answer" in own.read_text() and engine.calls == []
    own.unlink()
    assert run("01", "-o", ".").exit_code == 0
    assert run("01", "-o", ".").exit_code == 0  # a result may be replaced


def test_same_names_would_overwrite_each_other(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    write_notebook(books / "01.ipynb", "1")
    own = write_notebook(tmp_path / "mine" / "01.ipynb", "1")
    result = run("01", str(own))
    assert result.exit_code == 1
    assert "have the same name" in result.stderr


@pytest.mark.parametrize("text", ["", "{", '{"cells": 3}', "\x00\x01", '{"nbformat": 4}'])
def test_what_is_no_notebook_is_named(books: Path, engine: StubEngine, tmp_path: Path, text: str) -> None:
    write_notebook(books / "01.ipynb", "1")
    (tmp_path / "broken.ipynb").write_text(text)
    result = run("broken.ipynb")
    assert result.exit_code == 1
    assert "broken.ipynb is not a Jupyter notebook" in result.stderr
    assert "foundry-lab new" in result.stderr
    assert "Traceback" not in result.output


def test_output_that_cannot_be_written(books: Path, engine: StubEngine, tmp_path: Path) -> None:
    write_notebook(books / "01.ipynb", "1")
    (tmp_path / "file").write_text("")
    result = run("--output", "file/out")
    assert result.exit_code == 1
    assert "can't be written" in result.stderr
    assert "--output" in result.stderr


def test_kernel_that_does_not_start(books: Path, engine: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(books / "01.ipynb", "1")
    broken = {
        "argv": [sys.executable, "-c", "raise SystemExit(1)"],
        "display_name": "x",
        "language": "python",
    }
    monkeypatch.setattr("foundry_lab.workbook.kernel.get_kernel_dict", lambda: broken)
    result = run()
    assert result.exit_code == 1
    assert "kernel did not start" in result.stderr
    assert "foundry-lab doctor" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C can't be sent to one process on Windows")
def test_ctrl_c_writes_what_ran_and_stops_kernel_and_service(tmp_path: Path) -> None:
    write_notebook(
        tmp_path / "notebooks" / "01.ipynb",
        "import os, time\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\nprint('ran')",
        "Path('second').touch()\ntime.sleep(600)",
    )
    script = (
        "from pathlib import Path\n"
        "from foundry_lab import engine, workbook\nimport foundry_lab.workbook.cli\n"
        f"workbook.folder = lambda: Path({str(tmp_path / 'notebooks')!r})\n"
        "engine.service_status = lambda: None\n"
        "engine.ensure_service = lambda *a, **k: ''\n"
        "engine.stop_service = lambda *a, **k: print('service stopped')\n"
        "foundry_lab.workbook.cli.main(['run', '-o', 'out'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "second").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "service stopped" in stdout
    assert "Aborted!" in stderr
    assert "Traceback" not in stderr
    assert "ran" in outputs(tmp_path / "out" / "01.ipynb")
    kernel = int((tmp_path / "out" / "pid").read_text())
    deadline = time.monotonic() + 10
    while runs(kernel) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(kernel)


class Terminal(io.StringIO):
    """What a progress bar takes for a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_part_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = write_notebook(tmp_path / "own.ipynb", "# Basics", "1", "# The end", "2")
    monkeypatch.setattr(sys, "stderr", Terminal())
    runner.run_notebook(book, tmp_path / "out")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    for part in ("own", "0/2", "1/2", "Basics", "The end"):
        assert part in shown


def test_base64_images_are_not_searched_for_paths() -> None:
    here = Path("/home/ann")
    picture = f'<img src="data:image/png;base64,AAAA{here.as_posix()}/BBBB==">'
    before = {"image/png": f"AAAA{here}BBBB", "text/plain": f"<{here}/x>", "text/html": picture}
    output = nbformat.v4.new_output("display_data", before)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    runner._hide_machine(book, here)
    assert book.cells[0].outputs[0].data == before | {"text/plain": "<./x>"}
