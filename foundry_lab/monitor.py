"""A health check at regular times, in the background, and a supervisor that starts a dead service again.

    async with HealthMonitor(client, interval_s=1.0, supervisor=Supervisor()) as monitor:
        monitor.on_transition(lambda change: print(change.old, "->", change.new))
        ...
        print(monitor.latest.health.status)

It looks from a thread, whose loop is its own: code that keeps others waiting doesn't keep it from looking.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from foundry_lab._ground.checks import check_count, check_function, check_kind, check_timeout
from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab.calls import health
from foundry_lab.calls.portal import Portal, Work
from foundry_lab.client import FoundryAPIClient
from foundry_lab.engine.service.supervisor import Restart, Restarter, Supervisor
from foundry_lab.errors import ConfigurationError, FoundryError
from foundry_lab.logs import one_line
from foundry_lab.policies.breaker import State
from foundry_lab.sync_client import SyncFoundryAPIClient
from foundry_lab.types import Health

_log = logging.getLogger(__name__)
_monitors: weakref.WeakSet[HealthMonitor] = weakref.WeakSet()
"""All of this process. One that runs is held by its own thread."""


class Look(msgspec.Struct, frozen=True):
    """One look. `at_s` is when it ended, in monotonic seconds; `breaker` is the state of the client's."""

    at_s: float
    health: Health
    breaker: State | None = None


class HealthTransition(msgspec.Struct, frozen=True):
    """A look whose status differs from the one before."""

    old: str
    new: str
    at_s: float
    health: Health


class HealthMonitor:
    """Looks at a client's service at regular times. No look begins before the last one has ended.

    Args:
        client: whose service to look at. Of an async one use the monitor in an `async with` block, or with
            `start` and `aclose`; of a sync one in a `with` block, or with `start` and `close`.
        interval_s: seconds from the beginning of one look to the next; a look that takes longer delays it.
        timeout_s: seconds after which a look counts as unavailable.
        probe: have one token generated at each look.
        history: how many looks are kept.
        supervisor: start the lab's embedded service again when its process is found dead. Off by default.

    Attributes:
        history: the latest looks, oldest first.
        restarts: what the supervisor did.

    Raises:
        ConfigurationError: no client; a time that makes no sense; a supervisor for a service that is not the
            lab's; on starting, a client that another monitor watches.
    """

    def __init__(
        self,
        client: FoundryAPIClient | SyncFoundryAPIClient,
        interval_s: float = 1.0,
        *,
        timeout_s: float = 5.0,
        probe: bool = False,
        history: int = 3600,
        supervisor: Supervisor | None = None,
    ) -> None:
        check_kind(client, "client", (FoundryAPIClient, SyncFoundryAPIClient), "a FoundryAPIClient(…)")
        history = check_count(history, "history")
        if supervisor is not None and client.settings.endpoint is not None:
            raise ConfigurationError(
                "The supervisor starts the lab's own service, but this client was given the address "
                f"{client.settings.endpoint}. Make the client without an endpoint (and FOUNDRY_ENDPOINT), or "
                "leave out the supervisor."
            )
        self._client = client
        self._interval_s = check_timeout(interval_s, "interval_s")
        self._timeout_s = check_timeout(timeout_s, "timeout_s")
        self._probe = probe
        self.history: deque[Look] = deque(maxlen=history)
        self.restarts: deque[Restart] = deque(maxlen=history)
        self._restarter = Restarter(supervisor, client.settings, self.restarts) if supervisor else None
        self._look_listeners: list[Callable[[Look], None]] = []
        self._transition_listeners: list[Callable[[HealthTransition], None]] = []
        self._portal: Portal | None = None  # of the watch under way, or of the last
        self._work: Work[None] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # a listener may close the watch while it is being started
        _monitors.add(self)
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The monitor runs in the parent; in the child it doesn't, and may be started."""
        keep_unused(self._work)
        self._work = None
        self._lock = threading.Lock()

    @property
    def latest(self) -> Look | None:
        """The last look, or None before the first."""
        return self.history[-1] if self.history else None

    @property
    def running(self) -> bool:
        """Whether it looks."""
        return self._work is not None and not self._work.done

    def on_sample(self, listener: Callable[[Look], None]) -> None:
        """Call `listener` after every look, in the monitor's thread. One that raises is only logged.

        Raises:
            ConfigurationError: it can't be called.
        """
        check_function(listener, "listener")
        self._look_listeners.append(listener)

    def on_transition(self, listener: Callable[[HealthTransition], None]) -> None:
        """Call `listener` when the status changes, as for `on_sample`."""
        check_function(listener, "listener")
        self._transition_listeners.append(listener)

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> HealthMonitor:
        """Begin; return the monitor. Does nothing if it runs already.

        Raises:
            ConfigurationError: another monitor watches this client.
        """
        with self._lock:
            if self.running:
                return self
            if any(other.running and other._client is self._client for other in list(_monitors)):
                raise ConfigurationError(
                    "Another monitor watches this client already. Use that one, end it first (close() or "
                    "await aclose()), or give each monitor a client of its own."
                )
            self._portal = Portal("health-monitor")  # an earlier watch may still be winding up its own
            self._work = self._portal.start(self._watch())
        return self

    def close(self) -> None:
        """Stop looking. Ends a look that is under way; waits for a restart."""
        by_listener = threading.current_thread() is self._thread
        with self._lock:
            portal, work, self._work = self._portal, self._work, None  # now it may be started again
        if portal is not None and work is not None:
            work.cancel()
            if not by_listener:  # whose thread is the watch's own
                work.wait()
            portal.close()

    async def aclose(self) -> None:
        """Stop looking, as `close` does, and let other tasks run meanwhile."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> HealthMonitor:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> HealthMonitor:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- the loop: look, note, restart, wait -----------------------------------------------------------

    async def _watch(self) -> None:
        self._thread = threading.current_thread()
        try:
            while True:
                began = time.monotonic()
                found = await self._look()
                self._note(found)
                await asyncio.sleep(0)  # ends here if it was closed meanwhile, by a listener say
                if self._restarter is not None and found.status == "unavailable":
                    self._restarter.restart_if_dead()  # nobody else waits for this loop
                await asyncio.sleep(max(0.0, began + self._interval_s - time.monotonic()))
        finally:
            await self._client.caller.transport.close()  # this loop's connections

    async def _look(self) -> Health:
        try:
            return await self._client.caller.health(probe=self._probe, timeout_s=self._timeout_s)
        except Exception as error:  # which should not happen: worth a line, not the end of the watch
            _log.exception("a health check failed")
            problem = FoundryError(f"The health check failed: {error!r}")
            return health.unreachable(self._client.endpoint, problem)

    def _note(self, found: Health) -> None:
        breaker = self._client.breaker
        look = Look(time.monotonic(), found, breaker.state if breaker is not None else None)
        before = self.latest
        self.history.append(look)
        _call(self._look_listeners, look)
        if before is not None and before.health.status != found.status:
            change = HealthTransition(before.health.status, found.status, look.at_s, found)
            _log.info(
                "service %s -> %s: %s",
                change.old,
                change.new,
                one_line(" ".join(found.reasons)) or "no complaints",
            )
            _call(self._transition_listeners, change)


def _call(listeners: list[Callable[[Any], None]], argument: object) -> None:
    for listener in list(listeners):
        try:
            listener(argument)
        except Exception:
            _log.exception("a listener of the health monitor failed")
