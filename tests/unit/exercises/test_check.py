"""The frame around the checks: what is told of any answer, what is kept, and what happens under nbgrader."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from course_sources import answers, handed_over

from foundry_lab.engine import paths
from foundry_lab.errors import ConfigurationError
from foundry_lab.exercises import NotSolvedError, check, exercises, operations, trying
from foundry_lab.faults.checklist import Checklist, Trial
from foundry_lab.workbook import kernel

Capture = pytest.CaptureFixture[str]


def right(values: list[float], percent: int) -> float:
    return sorted(values)[max(-(-len(values) * percent // 100), 1) - 1]


async def right_later(values: list[float], percent: int) -> float:
    await asyncio.sleep(0)
    return right(values, percent)


def said(capsys: Capture, *answers: object, number: str = "2.2") -> str:
    assert check(number, *answers) is None
    return capsys.readouterr().out


def test_a_right_answer_is_ticked(capsys: Capture) -> None:
    assert said(capsys, right) == "✓ 2.2 A percentile\n"


def test_an_async_function_is_taken_where_a_plain_one_would_do(capsys: Capture) -> None:
    assert said(capsys, right_later).startswith("✓")


async def test_it_works_where_a_loop_is_running(capsys: Capture) -> None:
    """Every cell of a notebook runs inside the kernel's loop."""
    assert said(capsys, right_later).startswith("✓")


def only_words(values: object, percent: object) -> None:
    """Return something."""


async def only_words_later(values: object, percent: object) -> None:
    """Return something."""


def not_implemented(values: object, percent: object) -> None:
    raise NotImplementedError("later")


def gives_dots(values: object, percent: object) -> object:
    return ...


@pytest.mark.parametrize("answer", [..., only_words, only_words_later, not_implemented, gives_dots])
def test_a_stub_counts_as_unanswered(capsys: Capture, answer: object) -> None:
    assert "not answered yet" in said(capsys, answer)


def test_a_forgotten_return_is_not_taken_for_a_stub(capsys: Capture) -> None:
    text = said(capsys, lambda values, percent: print(end=""))
    assert "returned None (is a `return` missing?)" in text


def test_what_nobody_awaited_is_told_by_the_hint_alone(
    capsys: Capture, recwarn: pytest.WarningsRecorder
) -> None:
    """Python's own warning would stand in red above the hint."""

    async def wait_s(retry: int, initial_s: float, cap_s: float) -> float:
        return 0.0

    assert "returned <coroutine" in said(capsys, wait_s, number="4.2")
    assert not [each for each in recwarn if "never awaited" in str(each.message)]


def test_what_raises_is_told_with_its_line(capsys: Capture) -> None:
    def index(values: list[float], percent: int) -> float:
        return values[17]

    text = said(capsys, index)
    assert "percentile([3.0], 50) raised IndexError: list index out of range" in text
    assert "return values[17]" in text


def test_even_an_exit_is_told_and_not_done(capsys: Capture) -> None:
    assert "raised SystemExit: 3" in said(capsys, lambda values, percent: exit(3))


def test_a_result_instead_of_a_function_is_told(capsys: Capture) -> None:
    assert "without brackets" in said(capsys, 3.0)


def spin(values: object, percent: object) -> None:
    while True:
        time.sleep(0)


async def wait_for_ever(values: object, percent: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [spin, wait_for_ever])
def test_what_hangs_is_ended_and_told(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    """A loop that went on would use a processor for as long as the kernel lives."""
    monkeypatch.setattr(trying.attempt, "__kwdefaults__", {"call": "", "limit_s": 0.3})
    assert "was not back after 0.3 s" in said(capsys, answer)
    end = time.monotonic() + 30
    while any(thread.name == "exercise" for thread in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.05)
    assert "exercise" not in {thread.name for thread in threading.enumerate()}


def test_an_interrupt_ends_what_hangs() -> None:
    """Who sees his loop spin presses Ctrl-C, and doesn't wait for the check."""
    code = (
        "import _thread, threading, time\n"
        "from foundry_lab.exercises import check\n"
        "def spin(values, percent):\n"
        "    threading.Timer(0.5, _thread.interrupt_main).start()\n"
        "    while True:\n"
        "        time.sleep(0)\n"
        "try:\n"
        '    check("2.2", spin)\n'
        "except KeyboardInterrupt:\n"
        "    end = time.monotonic() + 30\n"
        "    while threading.active_count() > 1 and time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "    print(sorted(thread.name for thread in threading.enumerate()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['MainThread']\n", done.stderr


NAN_EACH_TIME = {"4.2": lambda retry, initial_s, cap_s: float("nan"), "2.2": lambda values, percent: math.nan}


@pytest.mark.parametrize("number", NAN_EACH_TIME)
def test_what_is_no_number_is_no_answer(capsys: Capture, number: str) -> None:
    """Every comparison with it is false, and so every complaint."""
    assert "returned nan" in said(capsys, NAN_EACH_TIME[number], number=number)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises_it(*_: object) -> None:
    raise Unspeakable


@pytest.mark.parametrize(
    ("number", "answer", "why"),
    [
        ("0.1", lambda reply: np.array(["one", "two"]), "truth value of an array"),
        ("0.1", lambda reply: 10**5000, "Exceeds the limit"),
        ("2.2", lambda values, percent: 10**400, "which isn't right|a number is wanted"),
        ("3.3", lambda rows: [np.array([1, 2])], "truth value of an array"),
        ("2.2", raises_it, "no words"),
    ],
)
def test_what_cannot_be_compared_or_shown_gets_a_hint_and_no_traceback(
    capsys: Capture, number: str, answer: object, why: str
) -> None:
    text = said(capsys, answer, number=number)
    assert text.startswith(f"✗ {number}")
    assert re.search(why, text)


def test_a_task_group_that_is_killed_is_no_mistake(capsys: Capture) -> None:
    """It makes a group of whatever ended a task, even of what is no Exception."""

    async def run_all(ask: Callable[[str], Awaitable[str]], prompts: dict[str, str], file: Path) -> object:
        with file.open("a+") as opened:
            opened.seek(0)
            done = dict(json.loads(line) for line in opened)

        async def one(name: str) -> None:
            done[name] = await ask(prompts[name])
            with file.open("a") as opened:
                opened.write(json.dumps([name, done[name]]) + "\n")

        async with asyncio.TaskGroup() as group:
            for name in prompts.keys() - done:
                group.create_task(one(name))
        return done

    assert said(capsys, run_all, number="3.4") == "✓ 3.4 Go on where it stopped\n"


def test_a_file_that_is_left_open_is_no_mistake(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Windows refuses to remove it: here, as it would there."""
    (function,) = handed_over("3.4", answers()["3.4"])
    unlink = os.unlink

    def refuse(path: str, **kwargs: Any) -> None:
        if str(path).endswith("results.jsonl"):
            raise PermissionError(13, "used by another process", path)
        unlink(path, **kwargs)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "unlink", refuse)
    assert said(capsys, function, number="3.4").startswith("✓")


@pytest.mark.parametrize("number", ["9.9", 9.9, ["2.1"], right])
def test_an_unknown_exercise_is_an_error(number: object) -> None:
    with pytest.raises(ConfigurationError, match=r"no exercise .*2\.1"):
        check(number, right)  # type: ignore[arg-type]


def test_a_number_without_quotes_is_told_as_that() -> None:
    """It was "There is no exercise 2.1. Did you mean 2.1?"."""
    with pytest.raises(ConfigurationError, match=r'in quotes: check\("2\.1", …\)'):
        check(2.1, right)  # type: ignore[arg-type]


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r'check\("2.2", percentile\)'):
        check("2.2")


# --- progress ---------------------------------------------------------------------------------------------


def test_what_is_solved_is_kept_in_the_labs_folder(capsys: Capture) -> None:
    said(capsys, right)
    assert json.loads((paths.home() / "progress.json").read_text()) == {"2.2": 2.0}
    check.progress()
    text = capsys.readouterr().out
    assert "· 2.1  ✓ 2.2  · 2.3" in text
    assert f"2 of {sum(each.points for each in exercises().values())} points" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows: a user's folders are his own there")
@pytest.mark.parametrize("made_before", [False, True])
def test_progress_is_nobody_elses_even_where_the_home_is_open(made_before: bool) -> None:
    """The first check may come before the service, which would make the folder for its owner alone."""
    if made_before:
        paths.home().mkdir(mode=0o755)
    check("2.2", right)
    if not made_before:
        assert paths.home().stat().st_mode & 0o777 == 0o700
    made = list(paths.home().iterdir())
    assert paths.home() / "progress.json" in made
    assert {file.stat().st_mode & 0o077 for file in made} == {0}


def test_a_later_mistake_takes_nothing_away(capsys: Capture) -> None:
    said(capsys, right)
    said(capsys, lambda values, percent: 0)
    check.progress()
    assert "✓ 2.2" in capsys.readouterr().out


def test_a_run_without_anybody_is_no_progress(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`foundry-lab run` executes the solutions too."""
    monkeypatch.setitem(os.environ, "FOUNDRY_LAB_UNATTENDED", kernel.environment()["FOUNDRY_LAB_UNATTENDED"])
    assert said(capsys, right).startswith("✓")
    assert not paths.home().exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"2.2": "yes"}', b"\xff", b'{"\xff": 1}', b"[" * 100_000])
def test_a_damaged_file_counts_as_none(capsys: Capture, content: bytes) -> None:
    paths.home().mkdir()
    (paths.home() / "progress.json").write_bytes(content)
    check.progress()
    assert "✓" not in capsys.readouterr().out
    assert said(capsys, right).startswith("✓")
    check.progress()
    assert "✓ 2.2" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_no_failure(capsys: Capture) -> None:
    Path(paths.home()).write_text("a file where the folder should be")
    text = said(capsys, right)
    assert text.startswith("✓ 2.2")
    assert "Progress is not kept" in text


# --- under nbgrader ---------------------------------------------------------------------------------------


@pytest.fixture
def grading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")


@pytest.mark.usefixtures("grading")
@pytest.mark.parametrize("answer", [only_words, lambda values, percent: 0])
def test_under_nbgrader_a_check_that_is_not_passed_raises(answer: object) -> None:
    """A cell that raises gets no points; one that printed a cross would get all."""
    with pytest.raises(NotSolvedError, match=r"2\.2"):
        check("2.2", answer)


@pytest.mark.usefixtures("grading")
def test_under_nbgrader_nothing_is_kept_and_the_points_come_back() -> None:
    assert check("2.2", right) == 2
    assert not paths.home().exists()


@pytest.mark.usefixtures("grading")
def test_under_nbgrader_a_warning_costs_no_points(capsys: Capture) -> None:
    """nbgrader gives none to a cell that has written anything to stderr."""

    def noisy(values: list[float], percent: int) -> float:
        os.sys.stderr.write("careful\n")  # type: ignore[attr-defined]
        return right(values, percent)

    check("2.2", noisy)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("grading")
def test_under_nbgrader_a_right_function_earns_its_point_without_the_law() -> None:
    function, law = handed_over("2.4", answers()["2.4"])
    assert check("2.4", function, law) == 2
    assert check("2.4", function, ...) == check("2.4", function, "quadratic") == 1


@pytest.mark.parametrize("before_per_s", [4.6, 18.0])
def test_a_machine_that_became_faster_or_slower_is_nobodys_mistake(
    capsys: Capture, before_per_s: float
) -> None:
    """What is measured while other programs are at work must not decide about points."""
    function, four, six = handed_over("3.2", answers()["3.2"])
    four.items_per_s = before_per_s
    text = said(capsys, function, four, six, number="3.2")
    assert "with the throughput of this run itself: 0.65 s" in text
    assert text.splitlines()[-1] == "✓ 3.2 Little's law"
    assert "both arguments" in said(
        capsys, lambda at_once, items_per_s: at_once / 2.2, four, six, number="3.2"
    )


@pytest.mark.parametrize(("passed", "mark"), [(5, "✗"), (6, "◐"), (7, "◐"), (8, "✓"), (9, "✓")])
@pytest.mark.usefixtures("stub")
def test_a_client_that_passes_six_trials_earns_half(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, passed: int, mark: str
) -> None:
    trials = tuple(Trial(f"demand {number}", number < passed, "seen") for number in range(9))
    monkeypatch.setattr(operations, "run_checklist", lambda make, upstream: Checklist(trials))
    assert said(capsys, lambda url: len, number="5.2").splitlines()[-1].startswith(mark)
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    if passed >= 6:
        assert check("5.2", lambda url: len) == (4 if passed >= 8 else 2)
    else:
        with pytest.raises(NotSolvedError, match="5 of 9 trials passed"):
            check("5.2", lambda url: len)
