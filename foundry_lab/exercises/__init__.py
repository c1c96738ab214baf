"""Exercises that check themselves.

    from foundry_lab.exercises import check
    check("2.1", stream_text)       # a tick, or one hint
    check.progress()                # what is solved so far

A check looks at what an answer does with inputs of its own. Progress is kept in a file of the lab's folder;
nothing leaves the machine. Under nbgrader a check that isn't passed raises, so that it gets no points.
"""

from foundry_lab.exercises.checking import NotSolvedError, check
from foundry_lab.exercises.registry import Exercise, exercises

__all__ = ["Exercise", "NotSolvedError", "check", "exercises"]
