"""Checks of numbers that a caller gives: the number comes back, or an error that says what is allowed."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Number
from typing import TypeGuard

from foundry_lab.errors import ConfigurationError

MAX_TIMEOUT_S = 1e6
"""Eleven days; sockets can't count as far as a float."""


def as_number(value: object) -> float:
    """Return a value as a number; NaN, which every comparison fails for, where it is none."""
    if isinstance(value, bool) or not isinstance(
        value, Number | str
    ):  # numpy's numbers are some, its bools none
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, numpy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_kind(value: object, name: str, kinds: tuple[type, ...], instead: str) -> None:
    """Raise ConfigurationError, which says what to give instead, for a value of another kind."""
    if not isinstance(value, kinds):
        raise ConfigurationError(f"{name} is a {type(value).__name__}; give {instead}.")


def check_function(value: object, name: str) -> None:
    """Raise ConfigurationError for what can't be called: noticed when it is needed, it would be too late."""
    if not callable(value):
        raise ConfigurationError(
            f"{name}={value!r} can't be called; give a function, without brackets behind it."
        )


def check_seconds(value: object, name: str, *, positive: bool = False) -> float:
    """Return a time in seconds. Raises ConfigurationError for what isn't a number from 0, or above it."""
    seconds = as_number(value)
    if not seconds >= 0 or (positive and not seconds):
        allowed = "more than 0" if positive else "0 or more"
        raise ConfigurationError(f"{name}={value!r} must be {allowed} seconds.")
    return seconds


def check_count(value: object, name: str) -> int:
    """Return a count. Raises ConfigurationError for what isn't a whole number from 1."""
    if not is_whole(value) or (count := int(value)) < 1:
        raise ConfigurationError(f"{name}={value!r} must be a whole number from 1.")
    return count


def check_timeout(value: float | str, name: str = "timeout") -> float:
    """Return a time limit in seconds; one beyond `MAX_TIMEOUT_S` is that.

    Raises:
        ConfigurationError: not a positive, finite number.
    """
    seconds = as_number(value)
    if not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"{name}={value!r} is not a time limit. Give a positive number of seconds, such as 30."
        )
    return min(seconds, MAX_TIMEOUT_S)


def check_retries(value: int | str, name: str = "retries") -> int:
    """Return the number of retries after the first attempt.

    Raises:
        ConfigurationError: not a whole number from 0 to 100.
    """
    try:
        number = int(value) if isinstance(value, str) or is_whole(value) else -1
    except ValueError:
        number = -1
    if not 0 <= number <= 100:
        raise ConfigurationError(
            f"{name}={value!r} is not a number of retries. Give a whole number from 0 (try once) to 100."
        )
    return number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean …? " for the known name that is most like this one, or nothing."""
    by_low = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_low, n=1)
    return f"Did you mean {by_low[close[0]]}? " if close else ""
