"""One streamed answer: what is known of it, and how it is read within its time limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab.calls import chat
from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.calls.async_transport import read_body
from foundry_lab.calls.target import Target
from foundry_lab.calls.unanswered import broken_body
from foundry_lab.errors import FoundryError, RequestTimeoutError, StreamInterruptedError
from foundry_lab.logs import LOGGER
from foundry_lab.metrics import Record
from foundry_lab.policies.breaker import Ticket
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.protocol.reply import is_event_stream, refuse_stream
from foundry_lab.types import Chunk, Completion, Usage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DRAIN_S = 0.1
"""How long to wait, after the last event, for the end that makes the connection usable again."""
CLOCK_TICK_S = time.get_clock_info("monotonic").resolution
"""A timer may fire so much early; on Windows before Python 3.13 that is 16 ms."""

_log = logging.getLogger(LOGGER)


class StreamReader:
    """Text, times and outcome of one streamed answer; they grow while it is read.

    What iterates over it, the async or the sync stream, is built on this.
    """

    _response: aiohttp.ClientResponse | None = None

    def __init__(self, caller: AsyncCaller, request: chat.ChatRequest) -> None:
        self._caller = caller
        self._request = request
        self._parser = ChatStream()
        self._ready: deque[Chunk] = deque()
        self._arrivals: list[float] = []
        self._record: Record | None = None
        self._ticket: Ticket | None = None
        self._reader: asyncio.Task[Any] | None = None  # who reads just now
        self._heard = False  # a chunk has come
        self._ended = False
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The connection is the parent's; a child that read on would take the parent's words."""
        keep_unused(self._response)
        self._response = self._reader = None

    # --- what is known of it ----------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text so far: of the pieces that were given out, however many more have arrived by chance."""
        return _without(self._parser.parts, [chunk.content for chunk in list(self._ready)])

    @property
    def reasoning(self) -> str:
        """What the model thought so far, where the service tells it apart from the text."""
        return _without(self._parser.thoughts, [chunk.reasoning for chunk in list(self._ready)])

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended; None while it hasn't."""
        return self._parser.finish_reason

    @property
    def usage(self) -> Usage | None:
        """Token counts; the service sends them at the end."""
        return self._parser.usage

    @property
    def model(self) -> str:
        """Id of the model that answers, or was asked if none did; empty before the first event."""
        return self._parser.model

    @property
    def arrivals_s(self) -> list[float]:
        """Seconds from the call to the arrival of each piece of text."""
        return list(self._arrivals)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token in seconds, from the call; None before it came."""
        return self._arrivals[0] if self._arrivals else None

    @property
    def inter_token_s(self) -> npt.NDArray[np.float64]:
        """Inter-token latencies in seconds, one less than there were pieces of text.

        Pieces that arrived in one read have no time between them.
        """
        import numpy as np  # here, as only those who look at times need it

        return np.diff(np.asarray(self._arrivals, dtype=np.float64))

    @property
    def tokens_per_s(self) -> float | None:
        """Decode throughput: tokens after the first, by the time they took. None for fewer than two."""
        if len(self._arrivals) < 2 or self._arrivals[-1] <= self._arrivals[0]:
            return None
        return (len(self._arrivals) - 1) / (self._arrivals[-1] - self._arrivals[0])

    def __reduce__(self) -> str:
        raise TypeError("A stream can't be copied or pickled: its connection is read once. Keep its .text.")

    def __repr__(self) -> str:
        state = self.finish_reason or ("reading" if self._arrivals else "waiting")
        return f"<{type(self).__name__} {state}, {len(self._arrivals)} pieces>"

    def _repr_markdown_(self) -> Any:
        return self.text or None

    # --- begin: up to the first text, and no further, the request may be sent again ----------------------

    async def _fill(self) -> None:
        """Read until a chunk is ready or the stream has ended.

        Raises:
            RuntimeError: somebody else reads it just now.
        """
        if self._reader is not None:
            raise RuntimeError(
                "Another task or thread reads this stream just now, and a piece is given to one only. Let "
                "one of them read and hand on what came, or ask for a stream each."
            )
        self._reader = reader = asyncio.current_task()
        assert reader is not None, "only tasks await"
        try:
            if self._record is None:
                await self._start()
            elif not self._parser.done:
                await self._read_on()
            if not self._ready:
                await self._drain()
                self._end(None)
        except BaseException as error:
            if self._ended and not reader.uncancel():
                return  # it was left by another, who cancelled no more than this read: see `_stop`
            if isinstance(error, StreamInterruptedError):
                error.partial = self.text
            self._end(error)
            raise
        finally:
            self._reader = None

    async def _start(self) -> None:
        """Send the request and wait for the first text, or where that doesn't come, for the whole answer."""
        caller, request = self._caller, self._request
        self._started = time.perf_counter()
        self._record = record = caller.begin("stream", request.messages)
        await caller.connected()
        self._deadline = deadline = Deadline(request.timeout_s)
        self._started = time.perf_counter()  # finding or starting the service isn't part of its time
        ask = partial(caller.send, deadline, record)

        async def begin(call: Call) -> Reply:
            reply, self._ticket = await caller.attempt(self._open, call, deadline, record)
            return reply

        try:
            await chat.answer(caller.directory, ask, request, begin)
        except RequestTimeoutError as error:
            if error.phase != "first_token" or not request.fallback:
                raise
            _log.warning("%s: no token in time; asking again without streaming", record.request_id)
            self._let_go()
            self._take_whole(await chat.complete(caller.directory, ask, request))

    async def _open(self, call: Call, deadline: Deadline, request_id: str, target: Target) -> Reply:
        """Send once and read up to the first text; what an earlier attempt brought is forgotten."""
        self._let_go()
        self._parser = ChatStream(request_id)
        limit_s = min(self._request.first_token_s, deadline.remaining())
        try:
            async with asyncio.timeout(limit_s):
                response = await self._caller.transport.dispatch(target, call, request_id, limit_s)
                self._response, self._loop = response, asyncio.get_running_loop()
                reply = Reply(response.status, response.headers, b"", request_id)
                if response.status != 200 or not is_event_stream(reply):
                    refuse_stream(msgspec.structs.replace(reply, body=await read_body(response)))
                await self._read(response)
        except RequestTimeoutError:
            raise
        except TimeoutError:
            raise self._silence() from None
        return reply

    def _take_whole(self, completion: Completion) -> None:
        """Deliver an answer that didn't stream as one piece (the fallback)."""
        parser, elapsed_s = self._parser, time.perf_counter() - self._started
        parser.parts, parser.thoughts = [completion.content], [completion.reasoning]
        parser.model, parser.finish_reason = completion.model, completion.finish_reason
        parser.usage, parser.done = completion.usage, True
        self._arrivals, self._heard = [elapsed_s], True
        fields = msgspec.structs.asdict(completion)
        self._ready.append(msgspec.convert({**fields, "elapsed_s": elapsed_s}, Chunk))
        self._end(None)  # whether or not anybody takes the piece

    # --- read, and end -----------------------------------------------------------------------------------

    async def _read_on(self) -> None:
        """Read the next chunk or the end, within the limit for silence."""
        loop = asyncio.get_running_loop()
        if (response := self._response) is None or self._loop is not loop:
            raise StreamInterruptedError(
                "A stream is read in the process and in the event loop that began it, and nowhere else. Ask "
                "again here; the text so far is in .partial."
            )
        limit_s = min(self._request.idle_s, self._deadline.remaining())
        # Not asyncio.timeout, which costs as much as reading does.
        timer = loop.call_later(limit_s, response.content.set_exception, TimeoutError())
        try:
            await self._read(response)
        except TimeoutError:
            raise self._silence() from None
        finally:
            timer.cancel()

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        """Take bytes off the wire until a chunk is ready or the answer is complete."""
        while not self._ready and not self._parser.done:
            if self._parser.failure is not None:
                raise self._parser.failure
            try:
                data = await response.content.readany()
            except (aiohttp.ClientError, ConnectionError) as error:
                if self._parser.finish_reason is None:
                    raise broken_body(response, error) from None
                data = b""  # nothing is lost but perhaps the usage
            if not data:
                self._parser.end()
                self._parser.done = True
            elapsed_s = time.perf_counter() - self._started
            for chunk in self._parser.feed(data, elapsed_s):
                if chunk.content:
                    self._arrivals.append(elapsed_s)
                self._heard = True
                self._ready.append(chunk)

    async def _stop(self) -> None:
        """Stop reading; whoever waits for a piece just now is told that there is none."""
        self._leave()
        self._end(asyncio.CancelledError())
        if self._reader is not None:
            self._reader.cancel()

    def _leave(self) -> None:
        """Forget the pieces that nobody was given."""
        self._parser.parts, self._parser.thoughts = [self.text], [self.reasoning]
        self._ready.clear()

    def _silence(self) -> RequestTimeoutError:
        """Return the error for a stream that kept silent too long."""
        if self._deadline.remaining() <= CLOCK_TICK_S:
            return self._deadline.error()
        if not self._heard:
            return RequestTimeoutError(
                f"No token came within {self._request.first_token_s:g} s. The service may be busy with other "
                "requests, still reading a long prompt, or its streaming hangs: allow more "
                'first_token_timeout, try on_stall="fallback", or restart the service.',
                phase="first_token",
                limit_s=self._request.first_token_s,
            )
        return RequestTimeoutError(
            f"The stream went silent for {self._request.idle_s:g} s after {len(self._arrivals)} pieces of "
            "text. What had come is in .text of the stream; allow more idle_timeout, or ask again.",
            phase="idle",
            limit_s=self._request.idle_s,
        )

    async def _drain(self) -> None:
        """Read the end of the body, so that the connection can be used again."""
        if self._response is not None:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
                async with asyncio.timeout(DRAIN_S):
                    while await self._response.content.readany():
                        pass

    def _end(self, error: BaseException | None) -> None:
        """Let go of the connection and finish the bookkeeping, once.

        For the breaker a stream that was left after its first text has worked; for the log one that was left
        after its last text is whole.
        """
        if self._ended:
            return
        self._ended = True
        self._let_go()
        if self._ticket is not None:
            left = self._heard and not isinstance(error, FoundryError)
            self._ticket.settle(None if left else error)
        self._parser.model = self._parser.model or self._caller.directory.meaning(self._request.model)
        if (record := self._record) is not None:
            record.model, record.usage, record.ttft_s = self.model, self.usage, self.ttft_s
            self._caller.end(record, self._started, None if self.finish_reason else error)

    def __del__(self) -> None:
        if self._response is None:
            return
        if asyncio._get_running_loop() is self._loop:
            self._response.close()
        try:  # later, in its loop: the collector comes in the middle of anything, and under any lock
            self._loop.call_soon_threadsafe(self._end, asyncio.CancelledError())
        except RuntimeError:  # that has ended
            self._end(asyncio.CancelledError())

    def _let_go(self) -> None:
        """Close the connection; one whose answer was read to its end went back to the others by itself."""
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(RuntimeError):  # its loop may be gone, and the socket with it
                response.close()


def _without(parts: list[str], waiting: list[str]) -> str:
    """Return the text of all parts but those that wait to be given out; an empty one is no part."""
    return "".join(parts[: len(parts) - sum(map(bool, waiting))])
