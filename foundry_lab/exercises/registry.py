"""Which exercises there are. Each notebook's stand in a module of their own."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from foundry_lab._ground.checks import did_you_mean
from foundry_lab.errors import ConfigurationError

NOTEBOOKS = ("start", "basic", "streaming", "batch", "production", "operations")
"""The modules, by the number before the dot of an exercise's id; they import `exercise` from here."""

Test = Callable[..., None]
"""Takes the learner's answers: the function or class that was written, already known to be one, and what else
the check is given. Raises Wrong, Partly or Unanswered unless they are right."""


class Exercise(NamedTuple):
    """One exercise.

    Attributes:
        number: notebook and place in it, such as "2.1".
        title: what it is about, in a few words.
        points: what a right answer is worth.
        test: tries the answers.
    """

    number: str
    title: str
    points: int
    test: Test


_known: dict[str, Exercise] = {}


def exercise(number: str, title: str, *, points: int) -> Callable[[Test], Test]:
    """Register the decorated function as an exercise's test."""

    def register(test: Test) -> Test:
        _known[number] = Exercise(number, title, points, test)
        return test

    return register


def exercises() -> dict[str, Exercise]:
    """Return all exercises by number, in the order of the course."""
    for name in NOTEBOOKS:
        importlib.import_module(f"foundry_lab.exercises.{name}")
    return dict(sorted(_known.items()))


def find(number: Any) -> Exercise:
    """Return the exercise of that number.

    Raises:
        ConfigurationError: there is none.
    """
    known = exercises()
    if isinstance(number, str) and number in known:
        return known[number]
    if str(number) in known:
        raise ConfigurationError(f'Write the number of an exercise in quotes: check("{number}", …).')
    raise ConfigurationError(
        f"There is no exercise {number!r}. {did_you_mean(str(number), known)}There are: {', '.join(known)}."
    )
