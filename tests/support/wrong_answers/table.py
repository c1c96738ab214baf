"""How wrong answers are written down: as the code itself, under a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A wrong answer, what its hint must hold, which of the answers it is (from 0), and its mark."""

    answer: Any
    hint: str
    place: int = 0
    mark: str = "✗"


class Table(dict[str, list[Case]]):
    """The cases of a notebook, by exercise."""

    def case(self, number: str, hint: str) -> Callable[[Any], Any]:
        """Take the decorated function or class as a wrong answer to this exercise."""

        def add(answer: Any) -> Any:
            self.setdefault(number, []).append(Case(answer, hint))
            return answer

        return add

    def value(self, number: str, hint: str, answer: Any) -> None:
        """Take a value for a wrong second answer to this exercise, whose first, a function, is right."""
        self.setdefault(number, []).append(Case(answer, hint, place=1, mark="◐"))
