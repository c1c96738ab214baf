"""Several services as one: the least busy of those that work gets the next request.

A service that stops answering is taken out and looked at until it is back. While none is left, callers wait,
within a limit. With one service this is what makes a batch pause and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec

from foundry_lab import protocol
from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.calls.models import Directory, same_model
from foundry_lab.calls.operation import Operation
from foundry_lab.errors import FoundryError, ModelNotLoadedError, ServiceUnavailableError
from foundry_lab.types import Completion

FIRST_LOOK_S = 0.2
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger("foundry_lab.batch")


class Endpoint:
    """One service of a pool.

    Attributes:
        busy: requests under way. answered: requests it has answered. failed_in_a_row: failures since then.
    """

    def __init__(self, client: AsyncCaller) -> None:
        self.client = client
        self.busy = self.answered = self.failed_in_a_row = 0
        self.watch: asyncio.Task[None] | None = None
        self.reason = ""

    @property
    def is_up(self) -> bool:
        """Whether it is in use."""
        return self.watch is None

    @property
    def load(self) -> tuple[int, int]:
        """What the least busy one has least of; among equals it is the one that has answered less."""
        return self.busy, self.answered

    @property
    def url(self) -> str:
        """Its address, as far as known."""
        return self.client.endpoint or "the lab's service"


class EndpointPool:
    """Chooses endpoints.

    Args:
        clients: one for each service, without circuit breakers: waiting is the pool's own way.
        models: names that the batch's items use, None for those that name none; a service needs them all.
        limit: requests under way at one endpoint.
        patience_s: seconds to wait while no endpoint works.

    Attributes:
        on_wait: called with True when the last endpoint stops working, with False when one is back.
    """

    def __init__(
        self, clients: list[AsyncCaller], models: set[str | None], *, limit: int, patience_s: float
    ) -> None:
        self.endpoints = [Endpoint(client) for client in clients]
        self.models = models
        self.limit = limit
        self.patience_s = patience_s
        self.on_wait: Callable[[bool], None] = lambda waiting: None
        self._changed = asyncio.Event()
        self._down_since: float | None = None

    async def check(self, endpoint: Endpoint) -> list[str]:
        """Return the ids of the batch's models at an endpoint.

        Raises:
            FoundryError: it doesn't answer, or doesn't have one of them ready.
        """
        client = endpoint.client
        await client.connected()
        client.directory.forget()  # it may be another service than before
        loaded = await client.manage("loaded_models", Directory.loaded_models, client.settings.timeout)
        ready = []
        for name in self.models:
            model = await client.manage(
                "choose_model", partial(Directory.choose, name=name), client.settings.timeout
            )
            if not any(same_model(model, each) for each in loaded):
                raise ModelNotLoadedError(
                    f"The model {model!r} isn't loaded at {client.endpoint}",
                    status=400,
                    by_service=False,
                    hint="Load it first: load_model(alias).",
                )
            ready.append(model)
        return ready

    async def acquire(self) -> Endpoint:
        """Return the least busy endpoint that works, waiting for one. Give it back with `release`.

        Raises:
            ServiceUnavailableError: none worked for `patience_s`.
        """
        while True:
            choice: Endpoint | None = None
            for each in self.endpoints:
                if each.watch is None and (choice is None or each.load < choice.load):
                    choice = each
            if choice is not None and choice.busy < self.limit:
                choice.busy += 1
                return choice
            self._changed.clear()
            limit = (
                None if self._down_since is None else self._down_since + self.patience_s - time.monotonic()
            )
            try:
                await asyncio.wait_for(self._changed.wait(), limit)
            except TimeoutError:
                raise self._gone() from None

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
            self._down_since = time.monotonic()
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
            await endpoint.client.close()

    async def _watch(self, endpoint: Endpoint, probe: bool) -> None:
        pause = FIRST_LOOK_S
        while not await self._works(endpoint, probe):
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 1.5)
        endpoint.watch = None
        if probe:
            endpoint.failed_in_a_row = 0
        if self._down_since is not None:
            self._down_since = None
            self.on_wait(False)
        _log.warning("%s works again", endpoint.url)
        self._changed.set()

    async def _works(self, endpoint: Endpoint, probe: bool) -> bool:
        client = endpoint.client
        try:
            found = await client.health(timeout_s=client.settings.timeout)
            if not found.loaded_models:
                endpoint.reason = " ".join(found.reasons)
                return False
            ready = await self.check(endpoint)
            if probe:
                await client.manage("health_check", lambda _: _one_token(ready[0]), client.settings.timeout)
        except FoundryError as error:
            endpoint.reason = str(error)
            return False
        return True

    def _gone(self) -> ServiceUnavailableError:
        reasons = "; ".join(f"{each.url}: {each.reason}" for each in self.endpoints)
        return ServiceUnavailableError(f"No service worked for {self.patience_s:g} s ({reasons})")


def _one_token(model: str) -> Operation[Completion]:
    """Have one token generated, in one attempt."""
    call = protocol.build_chat(model, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    return protocol.parse_completion((yield msgspec.structs.replace(call, once=True)), 0.0)
