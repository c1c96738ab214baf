"""Several services as one: the least busy of those that work gets the next request.

A service that stops answering is taken out and looked at until it is back. While none is left, callers wait,
within a limit. With one service this is what makes a batch pause and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from foundry_lab.batch.concurrency import AdaptiveConcurrency
from foundry_lab.calls.async_caller import Act, AsyncCaller
from foundry_lab.calls.chat import one_token
from foundry_lab.calls.core import ClientCore
from foundry_lab.calls.models import Directory, same_model
from foundry_lab.errors import (
    FoundryError,
    ModelNotLoadedError,
    RequestTimeoutError,
    ServiceUnavailableError,
)

T = TypeVar("T")

FIRST_LOOK_S = 0.2
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class Endpoint:
    """One service of a pool, and how it does.

    Attributes:
        busy: requests under way. answered: requests it has answered. failed_in_a_row: failures since then.
    """

    def __init__(self, caller: AsyncCaller) -> None:
        self.caller = caller
        self.busy = self.answered = self.failed_in_a_row = 0
        self.watch: asyncio.Task[None] | None = None
        self.reason = ""

    @property
    def is_up(self) -> bool:
        """Whether it is in use."""
        return self.watch is None

    def load(self) -> tuple[int, int]:
        """Return what the least busy one has least of; among equals it is the one that has answered less."""
        return self.busy, self.answered

    @property
    def url(self) -> str:
        """Its address, as far as known."""
        return self.caller.endpoint or "the lab's service"

    async def check(self, models: Iterable[str | None]) -> list[str]:
        """Return the ids of these models.

        Raises:
            FoundryError: it doesn't answer, or doesn't have one of them ready.
        """
        await self.caller.connected()
        self.caller.directory.forget()  # it may be another service than before
        loaded = await self._manage("loaded_models", Directory.loaded_models)
        ready = []
        for name in models:
            model = await self._manage("choose_model", partial(Directory.choose, name=name))
            if not any(same_model(model, each) for each in loaded):
                raise ModelNotLoadedError(
                    f"The model {model!r} isn't loaded at {self.caller.endpoint}",
                    status=400,
                    by_service=False,
                    hint="Load it first: load_model(alias).",
                )
            ready.append(model)
        return ready

    async def works(self, models: Iterable[str | None], *, probe: bool) -> bool:
        """Say whether it is healthy and has these models, and if asked for, also generates a token."""
        try:
            found = await self.caller.health(timeout_s=self.caller.settings.timeout)
            if not found.loaded_models:
                raise ServiceUnavailableError(" ".join(found.reasons))
            ready = await self.check(models)
            if probe:
                await self._manage("health_check", lambda _, ask: one_token(ask, ready[0]))
        except FoundryError as error:
            self.reason = str(error)
            return False
        return True

    async def _manage(self, name: str, act: Act[T]) -> T:
        return await self.caller.manage(name, act, self.caller.settings.timeout)


class EndpointPool:
    """Chooses endpoints, once it is open; to be closed whether or not that succeeds.

    Args:
        core: the client whose settings, headers and policies all of them have.
        endpoints: addresses; none for the client's own.
        models: names that the batch's items use, None for those that name none; a service needs them all.
        policy: says how many requests may be under way at one endpoint.
        patience_s: seconds to wait while no endpoint works.

    Attributes:
        on_wait: called with True when the last endpoint stops working, with False when one is back.
    """

    def __init__(
        self,
        core: ClientCore,
        endpoints: Sequence[str],
        models: set[str | None],
        policy: AdaptiveConcurrency,
        patience_s: float,
    ) -> None:
        # Without a circuit breaker: a batch waits where a call gives up.
        twins = [core.twin(endpoint, breaker=False) for endpoint in endpoints or (None,)]
        self.endpoints = [Endpoint(twin.caller) for twin in twins]
        self.models = models
        self.policy = policy
        self.patience_s = patience_s
        self.on_wait: Callable[[bool], None] = lambda waiting: None
        self._changed = asyncio.Event()
        self._give_up_at: float | None = None  # by the loop's clock, while no endpoint works

    async def open(self) -> None:
        """Look at the services. One that isn't there now is looked for while the others work.

        Raises:
            FoundryError: none is there, or one doesn't have a model that the batch names.
        """
        missing: list[Exception] = []
        for endpoint in self.endpoints:
            try:
                await endpoint.check(self.models)
            except (ServiceUnavailableError, RequestTimeoutError) as error:
                missing.append(error)
                self.lose(endpoint, str(error))
        if len(missing) == len(self.endpoints):
            raise missing[0]

    async def acquire(self) -> Endpoint:
        """Return the least busy endpoint that works, waiting for one. Give it back with `release`.

        Raises:
            ServiceUnavailableError: none worked for `patience_s`.
        """
        while True:
            working = (each for each in self.endpoints if each.is_up)
            choice = min(working, key=Endpoint.load, default=None)
            if choice is not None and choice.busy < self.policy.limit:
                choice.busy += 1
                return choice
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await self._changed.wait()
            except TimeoutError:
                reasons = "; ".join(f"{each.url}: {each.reason}" for each in self.endpoints)
                raise ServiceUnavailableError(
                    f"No service worked for {self.patience_s:g} s ({reasons})"
                ) from None

    def release(self, endpoint: Endpoint) -> None:
        """Give an endpoint back."""
        endpoint.busy -= 1
        self._changed.set()

    def lose(self, endpoint: Endpoint, reason: str, *, probe: bool = False) -> None:
        """Take an endpoint out until it works again.

        Args:
            probe: it only works if it also generates a token.
        """
        if not endpoint.is_up:
            return
        endpoint.reason = reason
        endpoint.watch = asyncio.create_task(self._watch(endpoint, probe))
        if not any(each.is_up for each in self.endpoints):
            self._give_up_at = asyncio.get_running_loop().time() + self.patience_s
            self.on_wait(True)
            _log.warning(
                "no service works; waiting up to %.0f s for one to come back (%s)", self.patience_s, reason
            )
        else:
            _log.warning("%s is left out until it works again (%s)", endpoint.url, reason)
        self._changed.set()  # those who wait learn of the time limit

    async def close(self) -> None:
        """Stop looking, and close the clients."""
        for endpoint in self.endpoints:
            if endpoint.watch is not None:
                endpoint.watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await endpoint.watch
            await endpoint.caller.close()

    async def _watch(self, endpoint: Endpoint, probe: bool) -> None:
        pause = FIRST_LOOK_S
        while not await endpoint.works(self.models, probe=probe):
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 1.5)
        endpoint.watch = None
        if probe:
            endpoint.failed_in_a_row = 0
        if self._give_up_at is not None:
            self._give_up_at = None
            self.on_wait(False)
        _log.warning("%s works again", endpoint.url)
        self._changed.set()
