"""`check`: what a learner calls, and what it says."""

import contextlib
import inspect
import io
import os
import warnings
from typing import Any

from foundry_lab.errors import ConfigurationError, FoundryError
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
        grading = GRADING in os.environ
        # Under nbgrader a line on stderr costs all points, though it may be a mere warning.
        with (
            contextlib.redirect_stderr(io.StringIO()) if grading else contextlib.nullcontext(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # "never awaited": the hint says it better
            mark, hint, earned = _verdict(exercise, answers)
        said = f"{mark} {number} {exercise.title}{hint}"
        if grading and not earned:
            raise NotSolvedError(said)
        print(said)
        if grading:
            return earned
        if earned:
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


def _verdict(exercise: Exercise, answers: tuple[Any, ...]) -> tuple[str, str, float]:
    """Return the mark of these answers, the hint, and the points."""
    names = list(inspect.signature(exercise.test).parameters)
    if len(answers) != len(names):
        wanted = ", ".join([f'"{exercise.number}"', *names])
        raise ConfigurationError(f"This exercise is checked with check({wanted}).")
    try:
        need_function(answers[0], names[0])
        exercise.test(*answers)
    except Unanswered:
        return OPEN, ": not answered yet. Fill in the cell above, then run both.", 0.0
    except Partly as partly:
        return PARTLY, f": {partly.points:g} of {exercise.points} points. {partly}", partly.points
    except Wrong as wrong:
        return NOT_YET, f": {wrong}", 0.0
    except FoundryError:
        raise
    except Exception as error:  # a value that can't be compared or shown, such as an array or a huge number
        why = f"{type(error).__name__}: {error}"
        return NOT_YET, f": what came back can't be judged ({why}). Return the kind of value asked for.", 0.0
    return SOLVED, "", float(exercise.points)


def _keep(number: str, earned: float) -> None:
    try:
        progress.keep(number, earned)
    except OSError as error:
        print(f"(Progress is not kept: {error.strerror or error}. Is the lab's folder full or locked?)")


def _mark(exercise: Exercise, earned: dict[str, float]) -> str:
    if (points := earned.get(exercise.number, 0.0)) <= 0:
        return OPEN
    return SOLVED if points >= exercise.points else PARTLY
