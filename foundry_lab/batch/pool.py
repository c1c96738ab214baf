"""Several services as one: each item is asked of the least busy of those that work.

A service that stops answering is taken out and looked at until it is back. While none is left, items wait,
within a limit. With one service this is what makes a batch pause and go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from foundry_lab import errors
from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.options import AdaptiveConcurrency
from foundry_lab.batch.result import Outcome, ended
from foundry_lab.calls.chat import ChatRequest, one_token
from foundry_lab.calls.core import ClientCore
from foundry_lab.calls.models import Directory, same_model
from foundry_lab.metrics import outcome_of
from foundry_lab.policies.breaker import is_failure
from foundry_lab.policies.retry import is_connect_timeout
from foundry_lab.protocol import Reply
from foundry_lab.types import Usage

FIRST_LOOK_S = 0.2
LONGEST_PAUSE_S = 5.0

MAX_LOSSES = 3
"""An item during which the service went away so often is recorded as failed: it may be what kills it."""

SUSPICIOUS_IN_A_ROW = 2 * MAX_LOSSES
"""After so many failures without a success the endpoint must prove that it can generate. Two items may be at
fault themselves."""

LOST = (errors.ServiceUnavailableError, errors.StreamInterruptedError, errors.ModelNotLoadedError)
SUSPICIOUS = (errors.RateLimitError, errors.AuthenticationError, errors.ResponseFormatError)

_log = logging.getLogger(__name__)


class Endpoint:
    """One service of a pool, and how it does.

    Attributes:
        busy: requests under way. answered: requests it has answered. failed_in_a_row: failures since then.
        watch: looks whether it works again; None while it is in use.
    """

    def __init__(self, client: ClientCore) -> None:
        self._client = client
        self.caller = client.caller
        self.busy = self.answered = self.failed_in_a_row = 0
        self.watch: asyncio.Task[None] | None = None
        self.reason = ""

    @property
    def url(self) -> str:
        """Its address, as far as known."""
        return self._client.endpoint or "the lab's service"

    async def check(self, models: Iterable[str | None], *, probe: bool = False) -> None:
        """Make sure that it has these models ready, and with `probe`, that it generates a token.

        Raises:
            FoundryError: it doesn't answer, or doesn't have one of them ready.
        """
        await self.caller.connected()
        self.caller.directory.forget()  # it may be another service than before
        loaded = await self.caller.manage("health_check", Directory.loaded_models)
        for name in models:
            model = await self.caller.manage("health_check", partial(Directory.choose, name=name))
            if not any(same_model(model, each) for each in loaded):
                raise errors.ModelNotLoadedError(
                    f"The model {model!r} isn't loaded at {self.url}",
                    status=400,
                    by_service=False,
                    hint="Load it first: load_model(alias).",
                )
        if probe:
            await self.caller.manage("health_check", lambda _, ask: one_token(ask, model))

    async def ask(self, item: BatchItem, request: ChatRequest) -> tuple[Outcome, Exception | None]:
        """Ask it, with the client's own retries and the item's deadline."""
        replies: list[Reply] = []  # several where it had to be asked for a shape again
        started = time.perf_counter()
        try:
            completion = await self.caller.perform(request, replies)
        except Exception as error:  # a parser of the caller's may raise anything; one bad item stops no batch
            # An answer in another shape than was asked for is kept.
            answered = not isinstance(error, errors.FoundryError) or hasattr(error, "text")
            last = replies[-1] if replies and answered else None
            return ended(item, last, error, time.perf_counter() - started), error
        outcome = ended(
            item,
            replies[-1],
            None,
            completion.latency_s,
            usage=Usage() if completion.cached or completion.usage is None else completion.usage,
            cached=completion.cached,
            retries=max(0, completion.attempts - 1),
        )
        return outcome, None


class EndpointPool:
    """Asks the services of a batch, once it is open; to be closed whether or not that succeeds.

    Args:
        core: the client whose settings, headers and policies all of them have.
        endpoints: addresses; none for the client's own.
        models: names that the batch's items use, None for those that name none; a service needs them all.
        policy: says how many requests may be under way at one endpoint.
        patience_s: seconds to wait while no endpoint works.

    Attributes:
        workers: how many chunks are taken at once. chunk: items in one.
        on_wait: called with True when the last endpoint stops working, with False when one is back.
    """

    chunk = 1

    def __init__(
        self,
        core: ClientCore,
        endpoints: Sequence[str],
        models: set[str | None],
        policy: AdaptiveConcurrency,
        patience_s: float,
    ) -> None:
        # Without a circuit breaker: a batch waits where a call gives up.
        twin = partial(core.twin, ClientCore, breaker=False)
        self.endpoints = [Endpoint(twin(endpoint)) for endpoint in endpoints or (None,)]
        self.workers = policy.maximum * len(self.endpoints)
        self.on_wait: Callable[[bool], None] = lambda waiting: None
        self._models = models
        self._policy = policy
        self._patience_s = patience_s
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
                await endpoint.check(self._models)
            except (errors.ServiceUnavailableError, errors.RequestTimeoutError) as error:
                missing.append(error)
                self._lose(endpoint, error)
        if len(missing) == len(self.endpoints):
            raise missing[0]

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items ended.

        Raises:
            ServiceUnavailableError: no service worked for `patience_s`.
        """
        return [await self.ask_one(item) for item in items]

    async def ask_one(self, item: BatchItem) -> Outcome:
        """Return how one item ended; asked again while it is the service that goes away."""
        if item.request is None:
            return ended(item, None, errors.ConfigurationError(item.problem), None)
        for _ in range(MAX_LOSSES):
            started = time.perf_counter()
            endpoint = await self._acquire()
            if endpoint.caller.metrics is not None:
                endpoint.caller.metrics.waited(time.perf_counter() - started)
            try:
                outcome, error = await endpoint.ask(item, item.request)
            finally:
                endpoint.busy -= 1
                self._changed.set()
            lost = self._is_lost(item.request.model, error)
            self._judge(endpoint, outcome, error, lost)
            if not lost:
                break
        return outcome

    async def close(self) -> None:
        """Stop looking, and close the clients."""
        for endpoint in self.endpoints:
            if endpoint.watch is not None:
                endpoint.watch.cancel()
                await asyncio.wait([endpoint.watch])
            await endpoint.caller.transport.close()

    async def _acquire(self) -> Endpoint:
        """Return the least busy endpoint that works, waiting for one; of equals, who has answered less."""
        while True:
            working = (each for each in self.endpoints if each.watch is None)
            choice = min(working, key=lambda each: (each.busy, each.answered), default=None)
            if choice is not None and choice.busy < self._policy.limit:
                choice.busy += 1
                return choice
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at):
                    await self._changed.wait()
            except TimeoutError:
                reasons = "; ".join(f"{each.url}: {each.reason}" for each in self.endpoints)
                raise errors.ServiceUnavailableError(
                    f"No service worked for {self._patience_s:g} s ({reasons})"
                ) from None

    def _is_lost(self, model: str | None, error: Exception | None) -> bool:
        """Say whether it is the service that went away, or lost a model that it had at the start."""
        if isinstance(error, errors.ModelNotFoundError):
            return model in self._models
        return isinstance(error, LOST) or (error is not None and is_connect_timeout(error))

    def _judge(self, endpoint: Endpoint, outcome: Outcome, error: Exception | None, lost: bool) -> None:
        """Tell a service that is broken from items that are. An answer from the cache says nothing of it."""
        latency_s = outcome.latency_s or 0.0
        if error is None and not outcome.cached:
            endpoint.answered += 1
            endpoint.failed_in_a_row = 0
            self._policy.observe(latency_s, outcome.usage.completion_tokens, ok=True)
        elif lost or isinstance(error, SUSPICIOUS) or (error is not None and is_failure(error)):
            endpoint.failed_in_a_row += 1
            if not lost:
                self._policy.observe(latency_s, 0, ok=False)
            must_prove = endpoint.failed_in_a_row >= SUSPICIOUS_IN_A_ROW
            if lost or must_prove:
                self._lose(endpoint, error, probe=must_prove)

    def _lose(self, endpoint: Endpoint, error: Exception | None, *, probe: bool = False) -> None:
        """Take an endpoint out until it works again; with `probe`, until it also generates a token."""
        if endpoint.watch is not None:
            return
        endpoint.reason = str(error)
        kind = outcome_of(error)  # for the log: the error's text may quote a prompt
        endpoint.watch = asyncio.create_task(self._watch(endpoint, probe))
        if any(each.watch is None for each in self.endpoints):
            _log.warning("%s is left out until it works again (%s)", endpoint.url, kind)
        else:
            self._give_up_at = asyncio.get_running_loop().time() + self._patience_s
            self.on_wait(True)
            _log.warning("no service works; waiting up to %.0f s for one (%s)", self._patience_s, kind)
        self._changed.set()  # those who wait learn of the time limit

    async def _watch(self, endpoint: Endpoint, probe: bool) -> None:
        pause = FIRST_LOOK_S
        while True:
            try:
                await endpoint.check(self._models, probe=probe)
                break
            except errors.FoundryError as error:
                endpoint.reason = str(error)
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
