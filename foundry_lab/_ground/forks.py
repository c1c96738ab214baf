"""What a forked child must not share with its parent: connections, locks, ids, database handles, loops.

A fork copies the memory but only the thread that forked. A lock that another thread held stays locked for
ever in the child, and two processes that read one connection take each other's answers.
"""

import contextlib
import ctypes
import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """An object with something that a child needs anew."""

    def after_fork(self) -> None:
        """Take new locks, connections and the like; called in the child, before anything else runs there."""
        ...


_things: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Have `thing.after_fork()` called in every child that this process forks, for as long as it lives."""
    _things.add(thing)


def keep_unused(thing: object) -> None:
    """Keep what is the parent's, which the child may not use and not close, as that would reach the parent.

    A list wouldn't do: the interpreter clears it at the child's end, and what was in it would close then.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _in_the_child() -> None:
    with contextlib.ExitStack() as calls:  # one that fails keeps none of the others from being renewed
        for thing in list(_things):
            calls.callback(thing.after_fork)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_in_the_child)
