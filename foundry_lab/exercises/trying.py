"""Trying what a learner wrote: any function, async or not, bounded in time, and each end of it in words."""

import asyncio
import contextlib
import ctypes
import dis
import inspect
import math
import reprlib
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, UnionType
from typing import Any

from foundry_lab._ground.checks import as_number

LIMIT_S = 10.0
"""How long one call of an answer may take. None needs a tenth of it, but a machine may be busy."""
POLL_S = 0.2
"""Ctrl-C doesn't get through a wait on Windows, so waits are made of pieces."""
LAST_WORD_S = 1.0
_NOT_THEIRS = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
_STUB_STEPS = {
    *("RESUME", "NOP", "RETURN_VALUE", "RETURN_GENERATOR", "POP_TOP", "COPY_FREE_VARS"),
    *("CALL_INTRINSIC_1", "RERAISE", "NOT_TAKEN"),  # these stand in every coroutine of newer Pythons
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = _short.maxdict = 5
shown = _short.repr
"""Says a value as a hint names it: short."""


def returned(value: Any) -> str:
    """Say what came back, as a hint does. Who prints a value, or forgets the word, gets None."""
    return f"returned {shown(value)}" + (" (is a `return` missing?)" if value is None else "")


class Wrong(Exception):
    """The answer isn't right; the message is the hint."""


class Partly(Wrong):
    """The answer is right in part, and worth `points`; the message says what is missing."""

    def __init__(self, hint: str, *, points: float) -> None:
        super().__init__(hint)
        self.points = points


class Unanswered(Exception):
    """There is no answer yet."""


def number_of(value: Any, call: str, wanted: str = "a number is wanted") -> float:
    """Return what a call returned as a number; numpy's are taken too.

    Raises:
        Wrong: it is none.
    """
    number = as_number(value) if hasattr(value, "__float__") else math.nan
    if math.isnan(number):
        raise Wrong(f"{call} {returned(value)}; {wanted}.")
    return number


def need_function(thing: Any, name: str) -> None:
    """Go on if the answer is a function or class that does something.

    Raises:
        Unanswered: it is `...` or still the stub.
        Wrong: it is something else.
    """
    if is_stub(thing):
        raise Unanswered
    if inspect.iscoroutine(thing):
        thing.close()  # or Python complains that nobody awaited it
    if not callable(thing):
        raise Wrong(f"Give {name} itself, without brackets after it. This is {shown(thing)}.")


def is_stub(thing: Any) -> bool:
    """Whether an answer is still as the learner found it: `...`, or a function without a line of its own."""
    if thing is ...:
        return True
    code = getattr(thing, "__code__", None)
    return isinstance(code, CodeType) and all(map(_does_nothing, dis.get_instructions(code)))


def _does_nothing(step: dis.Instruction) -> bool:
    is_value = step.opname in ("LOAD_CONST", "RETURN_CONST")
    return step.argval in (None, ...) if is_value else step.opname in _STUB_STEPS


class Outcome:
    """A function's call in a thread of its own, which a notebook's running event loop doesn't disturb.

    Attributes:
        call: how a hint names it.
        value, error: how it ended.
    """

    def __init__(self, call: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.call = call
        self.value: Any = None
        self.error: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ended = threading.Event()  # Python 3.11 takes a thread for dead whose join a Ctrl-C has ended
        self._thread = threading.Thread(target=self._run, args=(function, args), name="exercise", daemon=True)
        self._thread.start()

    def result(self, kind: type | UnionType = object, wanted: str = "") -> Any:
        """Return the value, which has to be of this kind; `wanted` says so in a hint.

        Raises:
            Wrong: it isn't, or the call ended with an error.
        """
        if self.error is not None:
            raise Wrong(f"{self.call} raised {described(self.error)}")
        if not isinstance(self.value, kind):
            raise Wrong(f"{self.call} {returned(self.value)}; {wanted}.")
        return self.value

    def wait(self, limit_s: float) -> bool:
        """Return whether it has ended, after at most so many seconds."""
        give_up_at = time.monotonic() + limit_s
        while not self._ended.wait(POLL_S) and time.monotonic() < give_up_at:
            pass
        return self._ended.is_set()

    def end(self) -> None:
        """Stop it, as far as Python can: cancel what awaits, and raise in what computes."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just closed
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            self.wait(LAST_WORD_S)
        if not self._ended.is_set():  # else a loop would use a processor for as long as the kernel lives
            thread_id = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(SystemExit))

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self.value = function(*args)
            if inspect.isawaitable(self.value):
                self.value = asyncio.run(self._awaited(self.value))
        except BaseException as error:  # whatever a learner's code raises, SystemExit too
            self.error = error
        finally:
            self._ended.set()

    async def _awaited(self, value: Any) -> Any:
        self._task = asyncio.current_task()
        return await value


def attempt(function: Callable[..., Any], *args: Any, call: str = "", limit_s: float = LIMIT_S) -> Outcome:
    """Return how a call of the learner's function ends; `call` is how a hint names it, if not by its code.

    Raises:
        Wrong: it didn't end in time.
        Unanswered: it raised NotImplementedError, or gave `...`.
    """
    call = call or f"{getattr(function, '__name__', 'your function')}({', '.join(map(shown, args))})"
    outcome = Outcome(call, function, args)
    try:
        if not outcome.wait(limit_s):
            raise Wrong(
                f"{call} was not back after {limit_s:g} s. Does a loop never end, or does something wait for "
                "what never comes?"
            )
    finally:  # a Ctrl-C too: a learner may see before the check that it never ends
        outcome.end()
    if isinstance(outcome.error, NotImplementedError) or outcome.value is ...:
        raise Unanswered
    return outcome


def described(error: BaseException) -> str:
    """Return an error in words: its name, what it says, and the learner's line it came from."""
    said = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if frame.line and not frame.filename.startswith(_NOT_THEIRS)]
    return f"{text}   (line {frames[-1].lineno}: {frames[-1].line})" if frames else text
