"""The async half of every call: an operation driven, each call under its policies, one exchange over aiohttp."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from yarl import URL

from foundry_lab import protocol
from foundry_lab.calls import chat, health
from foundry_lab.calls.async_transport import Sessions, as_payload, read_body, time_limits
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.calls.core import ClientCore
from foundry_lab.calls.operation import Operation, Pause
from foundry_lab.calls.target import Target, connect_timeout, hung_up, nobody_answers, not_http, relocate
from foundry_lab.config import check_timeout
from foundry_lab.errors import FoundryError, RequestTimeoutError
from foundry_lab.metrics import Record
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply
from foundry_lab.types import Completion, Health

if TYPE_CHECKING:
    pass

T = TypeVar("T")
Send = Callable[[Call, Deadline, Record], Awaitable[Reply]]


class AsyncCaller(ClientCore):
    """Has operations carried out over aiohttp: drives them, sends their calls under the policies, finds the service."""

    def _set_up(self) -> None:
        self._sessions = Sessions(self._headers)
        weakref.finalize(self, self._sessions.abandon)
        self._searches: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def _complete(self, request: ChatRequest, send: Send | None = None) -> Completion:
        with self._observed("complete", request) as record:
            deadline = await self._deadline(request.timeout_s)
            completion = await self._run(
                lambda: chat.complete(self._directory, request), deadline, record, send
            )
            record.model, record.usage = completion.model, None if completion.cached else completion.usage
            return completion

    async def close(self) -> None:
        """Close the connections, but for those of event loops that run in other threads.

        The client can be used again and then opens new ones.
        """
        await self._sessions.close()

    aclose = close

    # --- one request travels: operation -> policies -> exchange ---------------------------------------

    async def _health(self, *, probe: bool, limit_s: float) -> Health:
        try:
            target = await self._connected()
        except FoundryError as error:
            return health.unreachable(self.settings.endpoint, error)
        return await self._manage(
            "health_check",
            lambda: health.check(self._directory, target.endpoint, target.versions, probe=probe),
            limit_s,
        )

    async def _manage(self, name: str, start: Callable[[], Operation[T]], timeout_s: float) -> T:
        with self._observed(name) as record:
            deadline = await self._deadline(check_timeout(timeout_s))
            return await self._run(start, deadline, record)

    async def _deadline(self, limit_s: float) -> Deadline:
        """Begin a request's time when the service is known: finding or starting it doesn't count."""
        if self._target is None:
            await self._connected()
        return Deadline(limit_s)

    async def _run(
        self,
        start: Callable[[], Operation[T]],
        deadline: Deadline,
        record: Record,
        send: Send | None = None,
    ) -> T:
        """Drive an operation to its result. `start` makes it; the service is known."""
        operation = start()
        reply: Reply | None = None
        error: FoundryError | None = None
        while True:
            try:
                step = operation.send(reply) if error is None else operation.throw(error)
            except StopIteration as stop:
                return stop.value
            reply = error = None
            try:
                if isinstance(step, Pause):
                    await asyncio.sleep(min(step.seconds, deadline.remaining()))
                else:
                    reply = await (send or self._send)(step, deadline, record)
            except FoundryError as caught:
                error = caught

    async def _send(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Have one call answered: by the cache where it can, else by the service."""
        key = self.cache.key(call) if self.cache is not None else None
        if self.cache is None or key is None:
            return await self._ask(call, deadline, record)
        return await self.cache.answer(
            key, record.request_id, deadline, lambda: self._ask(call, deadline, record)
        )

    async def _ask(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send one call under the policies: deadline over all attempts, breaker around each."""
        if call.once:
            return await self._exchange(call, deadline, record.request_id)
        sent = 0
        try:
            with self._guard():
                return await self._exchange(call, deadline, record.request_id)
        except FoundryError as error:
            failed = error
        async for attempt in self.retry.attempts(deadline):  # its first attempt is the one that failed
            with attempt:
                sent += 1
                if sent == 1:
                    raise failed
                record.retries += 1
                with self._guard():
                    reply = await self._exchange(call, deadline, record.request_id)
        return msgspec.structs.replace(reply, attempts=sent)

    async def _exchange(self, call: Call, deadline: Deadline, request_id: str) -> Reply:
        """Send one call once and read its whole reply."""
        try:
            async with asyncio.timeout(limit_s := deadline.remaining()):
                response = await self._dispatch(call, request_id, limit_s)
                watch = call.on_data if response.status == 200 else None
                body = await read_body(response, watch)
        except RequestTimeoutError:
            raise
        except TimeoutError:
            raise deadline.error() from None
        reply = Reply(response.status, response.headers, body, request_id)
        protocol.raise_for_status(reply, may_be_empty=call.may_be_empty)
        return reply

    async def _dispatch(self, call: Call, request_id: str, limit_s: float) -> aiohttp.ClientResponse:
        """Send a call; return the response when its headers are there. The caller keeps the limit."""
        target = self._target or await self._connected()
        base, headers = target.endpoint, {"X-Request-Id": request_id}
        if call.control:
            assert target.control_url is not None, "only the lab's own service has a control route"
            base, headers["Authorization"] = target.control_url, f"Bearer {target.control_token}"
        limits = time_limits(limit_s)
        try:
            return await self._sessions.here().request(
                call.method,
                URL(base + call.path, encoded=True),
                data=as_payload(call.body),
                headers=headers,
                allow_redirects=False,
                timeout=limits,
            )
        except aiohttp.ConnectionTimeoutError:  # as in the sync client
            await self._look_elsewhere()
            raise connect_timeout(base, limits.sock_connect or limit_s, found=target.found) from None
        except aiohttp.ClientConnectorError as error:
            await self._look_elsewhere()
            reason = error.os_error.strerror or error.os_error
            raise nobody_answers(base, reason, found=target.found) from None
        except aiohttp.ClientResponseError as error:
            raise not_http(base, error.message) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise hung_up(base, error) from None

    # --- connection -----------------------------------------------------------------------------------

    async def _connected(self) -> Target:
        """Return the service, finding or starting it the first time."""
        if self._target is not None:
            return self._target
        async with self._searches.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return await asyncio.to_thread(self._search)  # of each loop one thread at a time

    async def _look_elsewhere(self) -> None:
        """The service is gone from where it was: take the place where a lab service runs now, if one does."""
        if self._target is not None and self._target.found:
            moved = await asyncio.to_thread(relocate, self._target)
            if moved is not None:
                self._connect_to(moved)
