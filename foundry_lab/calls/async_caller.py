"""Who sends: what a client does, its calls under the policies, the service found."""

import asyncio
import itertools
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from foundry_lab import logs
from foundry_lab._ground.checks import check_timeout
from foundry_lab._ground.forks import renew_after_fork
from foundry_lab.calls import chat, health
from foundry_lab.calls.async_transport import Transport
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.calls.models import Ask, Directory
from foundry_lab.calls.target import Target, locate, relocate
from foundry_lab.config import Settings
from foundry_lab.errors import FoundryError, ServiceUnavailableError
from foundry_lab.metrics import Metrics, Record, outcome_of
from foundry_lab.policies.breaker import CircuitBreaker, Ticket
from foundry_lab.policies.cache import ResponseCache
from foundry_lab.policies.retry import Deadline, RetryPolicy, is_connect_timeout
from foundry_lab.protocol import Call, Reply
from foundry_lab.types import Completion, Health, Model

T = TypeVar("T")
Act = Callable[[Directory, Ask], Awaitable[T]]
"""What a client does."""
Exchange = Callable[[Call, Deadline, str, Target], Awaitable[Reply]]
"""Sends a call once, with the request's id."""

_log = logging.getLogger(logs.LOGGER)
_log.addHandler(logging.NullHandler())  # quiet in a notebook until logs.configure_logging()


@dataclass(eq=False, repr=False)
class AsyncCaller:
    """Calls the service for a client, a stream or a batch.

    Attributes:
        directory: what the service's models are called. target: the service, when it is known.
    """

    settings: Settings
    headers: Mapping[str, str]
    retry: RetryPolicy
    breaker: CircuitBreaker | None
    metrics: Metrics | None
    cache: ResponseCache | None
    ca_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        self.directory = Directory(self.settings)
        self.target: Target | None = None
        self.transport = Transport(self.headers, self.ca_file)
        weakref.finalize(self, self.transport.abandon)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child looks for the service with locks of its own, and its calls have ids of its own."""
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._search_lock = threading.Lock()
        self._searches: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    # --- what a client has done ------------------------------------------------------------------------

    def perform(
        self, request: ChatRequest, replies: list[Reply] | None = None
    ) -> Coroutine[Any, Any, Completion]:
        """Return one whole answer; `replies` takes what the model said for it, as it came."""
        act = partial(chat.complete, request=request, replies=replies)
        return self._noted("complete", act, request.timeout_s, request)

    async def manage(self, name: str, act: Act[T], timeout_s: float | None = None) -> T:
        """Return the result of what looks after the service."""
        limit_s = self.settings.timeout if timeout_s is None else check_timeout(timeout_s)
        return await self._noted(name, act, limit_s)

    async def health(self, *, probe: bool = False, timeout_s: float | None = None) -> Health:
        """Look at the service once; that it is down is a result."""
        limit_s = self.settings.timeout if timeout_s is None else check_timeout(timeout_s)
        try:
            target = await self.connected()
        except FoundryError as error:
            return health.unreachable(self.settings.endpoint, error)
        return await self.manage("health_check", partial(health.check, target=target, probe=probe), limit_s)

    async def change_model(self, name: str, timeout_s: float, *, loaded: bool) -> Model:
        """Load or unload a model, waiting while it is busy."""
        limit_s = check_timeout(timeout_s)
        act = partial(Directory.change, name=name, limit_s=limit_s, loaded=loaded)
        return await self.manage("load_model" if loaded else "unload_model", act, limit_s)

    async def _noted(self, name: str, act: Act[T], limit_s: float, request: ChatRequest | None = None) -> T:
        """Do what a client does, with the bookkeeping around it."""
        started = time.perf_counter()
        record = self.begin(name, request.messages if request is not None else ())
        failed: BaseException | None = None
        try:
            if self.target is None:
                await self.connected()
                started = time.perf_counter()  # finding or starting it isn't part of the request's time
            ask = partial(self.send, Deadline(limit_s), record)
            result = await act(self.directory, ask)
            if isinstance(result, Completion):
                record.model, record.usage = result.model, None if result.cached else result.usage
            return result
        except BaseException as error:
            failed = error
            if not isinstance(error, FoundryError):
                raise
            _log.debug("%s failed: %s", record.request_id, type(error).__name__)  # its text may quote texts
            # The way through policies and transport tells a learner nothing.
            raise error.with_traceback(None) from error.__cause__
        finally:
            if request is not None and not record.model:
                record.model = self.directory.meaning(request.model)
            self.end(record, started, failed)

    # --- the bookkeeping: each call gets an id, one metric sample and one log line ------------------------

    def begin(self, operation: str, messages: Sequence[Mapping[str, Any]] = ()) -> Record:
        """Begin to keep a record; `messages` are what the call asks the model."""
        if self.metrics is not None:
            self.metrics.start()
        request_id = f"{self._prefix}-{next(self._numbers):06d}"
        asked = logs.prompt_excerpt(messages) if logs.prompt_length else ""
        return Record(operation, request_id, prompt=asked)

    def end(self, record: Record, started: float, error: BaseException | None) -> None:
        """Count and log a call that began at `started`, by perf_counter; the error if one ended it."""
        record.latency_s = time.perf_counter() - started
        record.outcome = outcome_of(error)
        if self.metrics is not None:
            self.metrics.finish(record)
        level = logging.INFO if record.outcome in ("ok", "cancelled") else logging.WARNING
        if record.operation == "health_check":
            level = logging.DEBUG  # a monitor makes one a second
        if _log.isEnabledFor(level):
            usage = record.usage
            tokens = f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage is not None else "-"
            prompt = f" prompt={record.prompt!r}" if record.prompt else ""
            line = (
                f"{record.request_id} {record.operation} model={logs.one_line(record.model) or '-'} "
                f"outcome={record.outcome} attempts={record.retries + 1} "
                f"latency_s={record.latency_s:.3f} tokens={tokens}{prompt}"
            )
            _log.log(level, line, extra={"record": record})

    # --- one request travels: policies -> transport -----------------------------------------------------

    def send(self, deadline: Deadline, record: Record, call: Call) -> Awaitable[Reply]:
        """Have one call answered: by the cache where it can, else by the service, under the policies.

        The call comes last, as those who ask are given the rest: see `Ask`.
        """
        if self.cache is not None and (key := self.cache.key(call)) is not None:
            ask = partial(self._ask, call, deadline, record)
            return self.cache.answer(key, record.request_id, deadline, ask)
        return self._ask(call, deadline, record)

    async def _ask(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        reply, ticket = await self.attempt(self.transport.exchange, call, deadline, record)
        if ticket is not None:
            ticket.settle(None)
        return reply

    async def attempt(
        self, exchange: Exchange, call: Call, deadline: Deadline, record: Record
    ) -> tuple[Reply, Ticket | None]:
        """Try, and try again as the policy says: the one way in which requests are attempted.

        The breaker is asked before each attempt, and told of each that failed. The ticket of the one that
        worked is returned, for the caller to settle when its answer is whole.
        """
        breaker = None if call.once else self.breaker
        retry = 0
        while True:
            ticket = breaker.acquire() if breaker is not None else None
            try:
                target = self.target or await self.connected()
                reply = await exchange(call, deadline, record.request_id, target)
                return (msgspec.structs.replace(reply, attempts=1 + retry) if retry else reply), ticket
            except BaseException as error:
                if ticket is not None:
                    ticket.settle(error)
                if isinstance(error, ServiceUnavailableError) or is_connect_timeout(error):
                    await self._look_elsewhere(resume=not call.once)
                retry += 1
                wait = None if call.once else self.retry.pause_s(error, retry, deadline)
                if wait is None:
                    raise
            await asyncio.sleep(wait)
            record.retries += 1

    # --- where to -------------------------------------------------------------------------------------

    async def connected(self) -> Target:
        """Return the service, finding or starting it the first time."""
        if self.target is not None:
            return self.target
        # A thread, as it may take seconds; one for each loop, or waiting callers would take them all.
        async with self._searches.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return await asyncio.to_thread(self._search)

    def _search(self) -> Target:
        """Find or start the service, once: who comes meanwhile waits for the same search."""
        with self._search_lock:
            return self.target or self._connect_to(locate(self.settings))

    async def _look_elsewhere(self, *, resume: bool) -> None:
        """The service is gone from where it was: take the place where a lab service runs now, if one does."""
        if self.target is not None:
            moved = await asyncio.to_thread(relocate, self.target, resume=resume)
            if moved is not None:
                self._connect_to(moved)

    def _connect_to(self, target: Target) -> Target:
        self.directory = Directory(self.settings, has_control=target.control_url is not None)
        self.transport.expect(target)
        self.target = target
        if self.breaker is not None and self.metrics is not None:
            self.metrics.watch_breaker(target.endpoint, self.breaker)
        return target
