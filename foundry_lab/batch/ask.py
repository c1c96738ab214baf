"""Ask one item of a batch, under its policy: retried, timed out and recorded, without harm to the others."""

from __future__ import annotations

import time

from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.pool import Endpoint, EndpointPool
from foundry_lab.batch.result import Outcome, ended
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.errors import (
    AuthenticationError,
    ConfigurationError,
    FoundryError,
    ModelNotFoundError,
    ModelNotLoadedError,
    RateLimitError,
    RequestTimeoutError,
    ResponseFormatError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
)
from foundry_lab.metrics import Record
from foundry_lab.policies.retry import Deadline, is_connect_timeout
from foundry_lab.protocol import Call, Reply
from foundry_lab.types import Usage

MAX_LOSSES = 3
"""An item during which the service went away so often is recorded as failed: it may be what kills it."""

SUSPICIOUS_IN_A_ROW = 2 * MAX_LOSSES
"""After so many failures without a success the endpoint must prove that it can generate. Two items may be at
fault themselves."""

LOST = (ServiceUnavailableError, StreamInterruptedError, ModelNotLoadedError)
SUSPICIOUS = (ServerError, RequestTimeoutError, RateLimitError, AuthenticationError, ResponseFormatError)


class PoolAsker:
    """Asks the services of a pool, item by item.

    Attributes:
        workers: how many chunks are taken at once. chunk: items in one.
    """

    chunk = 1

    def __init__(self, pool: EndpointPool) -> None:
        self.pool = pool
        self.workers = pool.policy.maximum * len(pool.endpoints)

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items ended, in any order."""
        return [await self.ask_one(item) for item in items]

    async def ask_one(self, item: BatchItem) -> Outcome:
        """Return how one item ended; asked again while it is the service that goes away."""
        if item.request is None:
            return ended(item, None, ConfigurationError(item.problem), None)
        for _ in range(MAX_LOSSES):
            started = time.perf_counter()
            endpoint = await self.pool.acquire()
            if endpoint.caller.metrics is not None:
                endpoint.caller.metrics.waited(time.perf_counter() - started)
            try:
                outcome, error = await _ask_once(endpoint, item, item.request)
            finally:
                self.pool.release(endpoint)
            if not self._is_lost(item.request.model, error):
                self._judge(endpoint, outcome, error)
                break
            endpoint.failed_in_a_row += 1
            self.pool.lose(endpoint, str(error), probe=endpoint.failed_in_a_row >= SUSPICIOUS_IN_A_ROW)
        return outcome

    def _is_lost(self, model: str | None, error: Exception | None) -> bool:
        """Say whether it is the service that went away, or lost a model that it had at the start."""
        if isinstance(error, ModelNotFoundError):
            return model in self.pool.models
        return isinstance(error, LOST) or (error is not None and is_connect_timeout(error))

    def _judge(self, endpoint: Endpoint, outcome: Outcome, error: Exception | None) -> None:
        """Tell a service that is broken from items that are. An answer from the cache says nothing of it."""
        if error is None and not outcome.cached:
            endpoint.answered += 1
            endpoint.failed_in_a_row = 0
            self.pool.policy.observe(outcome.latency_s or 0.0, outcome.usage.completion_tokens, ok=True)
        elif isinstance(error, SUSPICIOUS) and not getattr(error, "lasting", False):
            endpoint.failed_in_a_row += 1
            self.pool.policy.observe(outcome.latency_s or 0.0, 0, ok=False)
            if endpoint.failed_in_a_row >= SUSPICIOUS_IN_A_ROW:
                self.pool.lose(endpoint, str(error), probe=True)


async def _ask_once(
    endpoint: Endpoint, item: BatchItem, request: ChatRequest
) -> tuple[Outcome, Exception | None]:
    """Ask one endpoint, with the client's own retries and the item's deadline."""
    replies: list[Reply] = []  # that the model made; more than one where it had to be asked for a shape again

    async def send(call: Call, deadline: Deadline, record: Record) -> Reply:
        reply = await endpoint.caller.send(call, deadline, record)
        if call.generates:
            replies.append(reply)
        return reply

    started = time.perf_counter()
    try:
        completion = await endpoint.caller.perform(request, send)
    except Exception as error:  # a parser of the caller's may raise anything; one bad item stops no batch
        said_something = not isinstance(error, FoundryError) or hasattr(error, "text")  # but in another shape
        last = replies[-1] if replies and said_something else None
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
