"""Ask one item of a batch, under its policy: retried, timed out and recorded, without harm to the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.policy import Policy
from foundry_lab.batch.pool import Endpoint, EndpointPool
from foundry_lab.batch.result import Outcome, write_line
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
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply

MAX_LOSSES = 3
"""An item during which the service went away so often is recorded as failed: it may be what kills it."""

SUSPICIOUS_IN_A_ROW = 2 * MAX_LOSSES
"""After so many failures without a success the endpoint must prove that it can generate. Two items may be at
fault themselves."""

LOST = (ServiceUnavailableError, StreamInterruptedError, ModelNotLoadedError)
SUSPICIOUS = (ServerError, RequestTimeoutError, RateLimitError, AuthenticationError, ResponseFormatError)


class Asker(Protocol):
    """What a batch has its items answered by.

    Attributes:
        workers: how many chunks may be under way. chunk: items in one.
    """

    workers: int
    chunk: int

    def allows(self, worker: int) -> bool:
        """Return whether this worker may take more items now."""
        ...

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items ended, in any order."""
        ...

    def on_wait(self, callback: Callable[[bool], None]) -> None:
        """Have it called when no service works, and when one works again."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class PoolAsker:
    """Asks the services of a pool, item by item."""

    chunk = 1

    def __init__(self, pool: EndpointPool, policy: Policy) -> None:
        self.pool = pool
        self._policy = policy
        self.workers = policy.maximum * len(pool.endpoints)

    def allows(self, worker: int) -> bool:
        """Return whether this worker may take more items now."""
        return worker < self._policy.limit * len(self.pool.endpoints)

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items ended."""
        return [await self._item(item) for item in items]

    def on_wait(self, callback: Callable[[bool], None]) -> None:
        """Have it called when no service works, and when one works again."""
        self.pool.on_wait = callback

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()

    async def _item(self, item: BatchItem) -> Outcome:
        if item.request is None:
            return failed(item, ConfigurationError(item.problem))
        for _ in range(MAX_LOSSES):
            started = time.perf_counter()
            endpoint = await self.pool.acquire()
            if endpoint.client.metrics is not None:
                endpoint.client.metrics.waited(time.perf_counter() - started)
            try:
                outcome, error = await ask_once(endpoint, item)
            finally:
                self.pool.release(endpoint)
            if not self._is_lost(item.request.model, error):
                break
            endpoint.failed_in_a_row += 1
            self.pool.lose(endpoint, str(error), probe=endpoint.failed_in_a_row >= SUSPICIOUS_IN_A_ROW)
        else:
            return outcome  # it reached nobody
        self._judge(endpoint, outcome, error)
        return outcome

    def _is_lost(self, model: str | None, error: Exception | None) -> bool:
        """Say whether it is the service that went away, or lost a model that it had at the start."""
        if isinstance(error, ModelNotFoundError):
            return model in self.pool.models
        if isinstance(error, RequestTimeoutError):
            return error.phase == "connect"
        return isinstance(error, LOST)

    def _judge(self, endpoint: Endpoint, outcome: Outcome, error: Exception | None) -> None:
        """Tell a service that is broken from items that are. An answer from the cache says nothing of it."""
        if error is None and not outcome.cached:
            endpoint.answered += 1
            endpoint.failed_in_a_row = 0
            self._policy.observe(outcome.latency_s, outcome.completion_tokens, ok=True)
        elif isinstance(error, SUSPICIOUS):
            endpoint.failed_in_a_row += 1
            self._policy.observe(outcome.latency_s, 0, ok=False)
            if endpoint.failed_in_a_row >= SUSPICIOUS_IN_A_ROW:
                self.pool.lose(endpoint, str(error), probe=True)


async def ask_once(endpoint: Endpoint, item: BatchItem) -> tuple[Outcome, Exception | None]:
    """Ask one endpoint, with the client's own retries and the item's deadline."""
    assert item.request is not None
    client = endpoint.client
    last: Reply | None = None

    async def send(call: Call, deadline: Deadline, record: Record) -> Reply:
        nonlocal last
        reply = await client.send(call, deadline, record)
        if call.generates:
            last = reply
        return reply

    started = time.perf_counter()
    try:
        completion = await client.perform(item.request, send)
    except Exception as error:  # a parser of the caller's may raise anything; one bad item stops no batch
        keep = last if not isinstance(error, FoundryError) or _has_text(error) else None
        line, code = write_line(item.custom_id, item.fingerprint, keep, error)
        return Outcome(item.custom_id, item.fingerprint, line, code, time.perf_counter() - started), error
    line, code = write_line(item.custom_id, item.fingerprint, last, None)
    usage = completion.usage
    return (
        Outcome(
            item.custom_id,
            item.fingerprint,
            line,
            code,
            completion.latency_s,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            completion.cached,
            max(0, completion.attempts - 1),
        ),
        None,
    )


def failed(item: BatchItem, error: Exception) -> Outcome:
    """Return the outcome of an item that wasn't sent."""
    line, _ = write_line(item.custom_id, item.fingerprint, None, error)
    return Outcome(item.custom_id, item.fingerprint, line, "invalid_item", 0.0)


def _has_text(error: FoundryError) -> bool:
    """Whether the model did answer, only not in the shape that was asked for."""
    return hasattr(error, "text")
