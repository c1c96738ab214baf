"""`check`: what a learner calls, and what it says."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import warnings
from typing import Any

from foundry_lab.errors import ConfigurationError
from foundry_lab.exercises import progress
from foundry_lab.exercises.registry import NOTEBOOKS, Exercise, exercises, find
from foundry_lab.exercises.trying import Partly, Unanswered, Wrong, need_function

GRADING = "NBGRADER_EXECUTION"
"""Set by nbgrader while it grades or validates a notebook."""
SOLVED, PARTLY, NOT_YET, OPEN = "✓", "◐", "✗", "·"


class NotSolvedError(AssertionError):
    """Raised under nbgrader for an answer that is missing or wrong."""


class Check:
    """Tries answers and says how they did."""

    def __call__(self, number: str, *answers: Any) -> float | None:
        """Try the answers to an exercise; print a tick, or one hint.

        Returns:
            None; under nbgrader the points, which it takes from the cell's output.

        Raises:
            ConfigurationError: there is no such exercise, or it needs another number of answers.
            NotSolvedError: under nbgrader, if the answer is missing or wrong.
        """
        exercise = find(number)
        _check_count(exercise, answers)
        grading = GRADING in os.environ
        head = f"{number} {exercise.title}"
        earned = float(exercise.points)
        try:
            with _quiet(grading):
                _try(exercise, answers)
            print(f"{SOLVED} {head}")
        except Unanswered:
            _complain(f"{OPEN} {head}: not answered yet. Fill in the cell above, then run both.", grading)
            return None
        except Partly as partly:
            earned = partly.points
            print(f"{PARTLY} {head}: {earned:g} of {exercise.points} points. {partly}")
        except Wrong as wrong:
            _complain(f"{NOT_YET} {head}: {wrong}", grading)
            return None
        if grading:
            return earned
        _keep(number, earned)
        return None

    def progress(self) -> None:
        """Print what is solved so far, notebook by notebook."""
        earned, known = progress.points(), exercises()
        for place, name in enumerate(NOTEBOOKS):
            here = [each for each in known.values() if each.number.startswith(f"{place}.")]
            marks = "  ".join(f"{_mark(each, earned)} {each.number}" for each in here)
            print(f"{place} {name:11} {marks}")
        total = sum(min(earned.get(each.number, 0.0), each.points) for each in known.values())
        print(f"{total:g} of {sum(each.points for each in known.values())} points")

    def __repr__(self) -> str:
        return '<check: call it with an exercise and your answer, as in check("2.1", stream_text)>'


check = Check()


def _try(exercise: Exercise, answers: tuple[Any, ...]) -> None:
    function, *_ = inspect.signature(exercise.test).parameters
    need_function(answers[0], function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "never awaited": the hint says it better
        exercise.test(*answers)


def _check_count(exercise: Exercise, answers: tuple[Any, ...]) -> None:
    signature = inspect.signature(exercise.test)
    if len(answers) != len(signature.parameters):
        wanted = ", ".join([f'"{exercise.number}"', *signature.parameters])
        raise ConfigurationError(f"This exercise is checked with check({wanted}).")


def _quiet(grading: bool) -> contextlib.AbstractContextManager[Any]:
    """Under nbgrader a line on stderr costs all points, though it may be a mere warning."""
    return contextlib.redirect_stderr(io.StringIO()) if grading else contextlib.nullcontext()


def _complain(text: str, grading: bool) -> None:
    if grading:
        raise NotSolvedError(text)
    print(text)


def _keep(number: str, earned: float) -> None:
    try:
        progress.keep(number, earned)
    except OSError as error:
        print(f"(Progress is not kept: {error.strerror or error}. Is the lab's folder full or locked?)")


def _mark(exercise: Exercise, earned: dict[str, float]) -> str:
    if (points := earned.get(exercise.number, 0.0)) <= 0:
        return OPEN
    return SOLVED if points >= exercise.points else PARTLY
