"""The streams: an answer to iterate over, bounded in time, cancelled at the service when it is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab.calls import chat
from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.calls.async_transport import broken_body, read_body
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.calls.stream_state import DRAIN_S, StreamState
from foundry_lab.calls.target import Target, of_the_parent
from foundry_lab.errors import RequestTimeoutError
from foundry_lab.logs import LOGGER
from foundry_lab.metrics import Record
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.protocol.reply import is_event_stream, refuse_stream
from foundry_lab.types import Chunk

_log = logging.getLogger(LOGGER)


class StreamReader(StreamState):
    """Reads one streamed answer. What iterates over it, the async or the sync stream, is built on this."""

    _response: aiohttp.ClientResponse | None = None

    def __init__(self, caller: AsyncCaller, request: ChatRequest) -> None:
        super().__init__(caller, request)
        self._watchdog: _Watchdog | None = None
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The connection is the parent's; a child that read on would take the parent's words."""
        keep_unused((self._response, self._watchdog))
        self._response = self._watchdog = None

    async def _fill(self) -> None:
        """Read until a chunk is ready or the stream has ended."""
        try:
            if self._record is None:
                await self._start()
            elif self._watchdog is not None:
                self._watchdog.arm()
            while not self._ready and not self._ended:
                await self._read()
            if self._watchdog is not None:
                self._watchdog.armed = False
        except BaseException as error:
            self._end(error)
            raise

    async def _start(self) -> None:
        """Send the request and wait for the first text. Up to there, and no further, it may be sent again."""
        caller, request = self._caller, self._request
        record = self._begin()
        await caller.connected()
        deadline = Deadline(request.timeout_s)
        self._started = max(self._started, caller.found_at)
        try:
            await caller.run(
                lambda models: chat.answer(models, request, stream=True), deadline, record, self._send
            )
        except RequestTimeoutError as error:
            if error.phase != "first_token" or not request.fallback:
                raise
            _log.warning("%s: no token in time; asking again without streaming", record.request_id)
            self._let_go()
            self._take_whole(
                await caller.run(lambda models: chat.complete(models, request), deadline, record)
            )

    async def _send(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send under the client's policies; what isn't the answer itself takes the usual way."""
        if not call.generates:
            return await self._caller.send(call, deadline, record)
        reply, self._ticket = await self._caller.attempt(
            partial(self._open, call, deadline, record.request_id), deadline, record
        )
        return reply

    async def _open(self, call: Call, deadline: Deadline, request_id: str, target: Target) -> Reply:
        """Send once and read up to the first text; what an earlier attempt brought is forgotten."""
        self._let_go()
        self._parser = ChatStream(request_id)
        limit_s = min(self._request.first_token_s, deadline.remaining())
        try:
            async with asyncio.timeout(limit_s):
                response = await self._caller.transport.dispatch(target, call, request_id, limit_s)
                self._response = response
                reply = Reply(response.status, response.headers, b"", request_id)
                if response.status != 200 or not is_event_stream(reply):
                    refuse_stream(Reply(reply.status, reply.headers, await read_body(response), request_id))
                while not self._ready and not self._parser.done:
                    await self._read()
        except RequestTimeoutError:
            raise
        except TimeoutError:
            raise self._silence(deadline) from None
        self._watchdog = _Watchdog(self, response.content, deadline)
        return reply

    async def _read(self) -> None:
        """Take the next bytes off the wire, or end the stream."""
        if self._parser.failure is not None:
            raise self._parser.failure
        if self._parser.done:
            await self._drain()
            self._end(None)
            return
        if (response := self._response) is None:
            raise self._parser.broken(of_the_parent())
        try:
            data = await response.content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            if self._parser.finish_reason is None:
                raise self._parser.broken(broken_body(response, error)) from None
            data = b""  # nothing is lost but perhaps the usage
        if not data:
            self._parser.end()
            self._parser.done = True
        else:
            self._feed(data)

    async def _drain(self) -> None:
        """Read the end of the body, so that the connection can be used again."""
        if self._response is not None:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
                async with asyncio.timeout(DRAIN_S):
                    while await self._response.content.readany():
                        pass

    def _end(self, error: BaseException | None) -> None:
        """Let go of the connection and finish the bookkeeping, once."""
        if not self._ended:
            self._let_go()
            self._finish(error)

    def _let_go(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(RuntimeError):  # its loop may be gone, and the socket with it
                response.release() if response.content.is_eof() else response.close()


class CompletionStream(StreamReader):
    """One streamed answer. Iterate over it; its text, times and usage are attributes.

    The connection is given back when the answer is complete. It is closed, which stops the generation at the
    service, when the iteration fails or is cancelled, at `aclose()`, at the end of an `async with` block, and
    when nobody holds the stream any more (a `break` out of a plain loop).
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if not self._ready and not self._ended:
            await self._fill()
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; the service stops generating."""
        self._ready.clear()
        self._end(asyncio.CancelledError())

    def __del__(self) -> None:
        if self._response is not None:
            self._end(asyncio.CancelledError())


class _Watchdog:
    """Ends a read that waits too long. One timer a stream; a read costs it one look at the clock.

    Attributes:
        armed: somebody waits for the next piece; the time a reader takes between two is not the service's.
    """

    def __init__(self, stream: StreamReader, content: aiohttp.StreamReader, deadline: Deadline) -> None:
        self._loop = asyncio.get_running_loop()
        self._content = content
        self._idle_s = stream._request.idle_s
        self._deadline = deadline
        self._silence = weakref.WeakMethod(stream._silence)  # or a dropped stream would live on in the timer
        self._timer: asyncio.TimerHandle | None = None
        self.arm()

    def arm(self) -> None:
        """The wait for the next piece begins."""
        self._due = min(self._loop.time() + self._idle_s, self._deadline.at)
        self.armed = True
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self.armed:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._look)
        elif silence := self._silence():
            self._content.set_exception(silence(self._deadline))
