"""Starts the embedded service again when its process has died."""

import logging
import time
from collections import deque

import msgspec
from msgspec.structs import force_setattr

from foundry_lab._ground.checks import check_seconds
from foundry_lab.config import Settings

_log = logging.getLogger(__name__)


class Restart(msgspec.Struct, frozen=True):
    """One attempt to start the service again. `error` is empty if it worked. Times in seconds, monotonic."""

    at_s: float
    took_s: float
    error: str = ""


class Supervisor(msgspec.Struct, frozen=True, kw_only=True):
    """When to start a dead service again.

    The first restart is immediate. Restart n after it waits `backoff_initial_s * 2**(n-1)`, at most
    `backoff_max_s`, since a service that dies at once again would otherwise be started for ever.

    Attributes:
        settle_s: a service that lived so long is taken to be well: the next restart is a first one.

    Raises:
        ConfigurationError: a time that isn't a number from 0.
    """

    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    settle_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            force_setattr(self, name, check_seconds(getattr(self, name), name))

    def wait_s(self, in_a_row: int) -> float:
        """Return the seconds to leave between restart number `in_a_row` (from 1) and the next."""
        return min(self.backoff_max_s, self.backoff_initial_s * 2 ** min(in_a_row - 1, 60))


class Restarter:
    """Carries out what a `Supervisor` prescribes.

    Attributes:
        restarts: what was done, oldest first.
    """

    def __init__(self, policy: Supervisor, settings: Settings, restarts: deque[Restart]) -> None:
        self._policy = policy
        self._settings = settings
        self._in_a_row = 0
        self._last: Restart | None = None
        self.restarts = restarts

    def restart_if_dead(self) -> None:
        """Start the service if its process is gone and the wait is over. Takes seconds.

        A process that lives and doesn't answer is left alone: it may be busy, and isn't ours to kill. One
        that stopped for want of work is left to the next request.
        """
        from foundry_lab import engine
        from foundry_lab.engine.service.state import ended

        if not self._is_due():
            return
        began = time.monotonic()
        problem = ""
        try:
            if engine.service_status() is not None or ended("idle"):
                return
            engine.ensure_service(self._settings, progress=False)
        except Exception as error:  # whatever it is, the next try may work
            problem = str(error) or repr(error)
        self._in_a_row += 1
        self._last = Restart(began, time.monotonic() - began, problem)
        self.restarts.append(self._last)
        if problem:
            _log.warning("the service could not be started again: %s", problem)
        else:
            _log.warning("the service was dead and has been started again")

    def _is_due(self) -> bool:
        last = self._last
        if last is None:
            return True
        since_s = time.monotonic() - (last.at_s + last.took_s)
        if not last.error and since_s >= self._policy.settle_s:
            self._in_a_row = 0
            return True
        return since_s >= self._policy.wait_s(self._in_a_row)
