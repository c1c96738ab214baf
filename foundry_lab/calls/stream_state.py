"""What a streamed answer knows about itself: text, times and outcome."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.errors import FoundryError, RequestTimeoutError
from foundry_lab.metrics import Record
from foundry_lab.policies.breaker import Ticket
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol.chat_stream import ChatStream
from foundry_lab.types import Chunk, Completion, Usage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


DRAIN_S = 0.1
"""How long to wait, after the last event, for the end that makes the connection usable again."""
CLOCK_TICK_S = time.get_clock_info("monotonic").resolution
"""A timer may fire so much early; on Windows before Python 3.13 that is 16 ms."""


class StreamState:
    """Text, times and outcome of one streamed answer; grows while it is read."""

    def __init__(self, caller: AsyncCaller, request: ChatRequest) -> None:
        self._caller = caller
        self._request = request
        self._started = time.perf_counter()
        self._parser = ChatStream()
        self._ready: deque[Chunk] = deque()
        self._arrivals: list[float] = []
        self._record: Record | None = None
        self._ticket: Ticket | None = None
        self._heard = False  # a chunk has come
        self._ended = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parser.parts)

    @property
    def reasoning(self) -> str:
        """What the model thought so far, where the service tells it apart from the text."""
        return "".join(self._parser.thoughts)

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

    def _feed(self, data: bytes) -> None:
        """Take bytes off the wire."""
        elapsed_s = time.perf_counter() - self._started
        chunks = self._parser.feed(data, elapsed_s)
        for chunk in chunks:
            if chunk.content:
                self._arrivals.append(elapsed_s)
        if chunks:
            self._heard = True
            self._ready.extend(chunks)

    def _begin(self) -> Record:
        """Start the clock and the bookkeeping: the iteration has begun."""
        self._started = time.perf_counter()
        self._record = self._caller.notes.begin("stream", self._request.messages)
        return self._record

    def _settle(self, error: BaseException | None) -> None:
        """Tell the breaker, once, how the attempt ended. A stream left after its first text worked."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            left = self._heard and not isinstance(error, FoundryError)
            ticket.settle(None if left else error)

    def _finish(self, error: BaseException | None) -> None:
        """Finish the bookkeeping, once; a stream left after its last text counts as whole."""
        self._ended = True
        self._settle(error)
        self._parser.model = self._parser.model or self._caller.directory.meaning(self._request.model)
        record, self._record = self._record, None
        if record is not None:
            record.model, record.usage, record.ttft_s = self.model, self.usage, self.ttft_s
            self._caller.notes.end(record, self._started, None if self.finish_reason else error)

    def _take_whole(self, completion: Completion) -> None:
        """Deliver an answer that didn't stream as one piece (the fallback)."""
        parser, elapsed_s = self._parser, time.perf_counter() - self._started
        parser.parts, parser.model, parser.id = [completion.content], completion.model, completion.id
        parser.finish_reason, parser.usage, parser.done = completion.finish_reason, completion.usage, True
        parser.thoughts = [completion.reasoning]
        self._arrivals, self._heard = [elapsed_s], True
        self._ready.append(
            Chunk(
                content=completion.content,
                elapsed_s=elapsed_s,
                finish_reason=completion.finish_reason,
                reasoning=completion.reasoning,
                tool_calls=completion.tool_calls,
            )
        )

    def _silence(self, deadline: Deadline) -> RequestTimeoutError:
        """Return the error for a stream that kept silent too long."""
        if deadline.remaining() <= CLOCK_TICK_S:
            return deadline.error()
        if not self._heard:
            return RequestTimeoutError(
                f"No token came within {self._request.first_token_s:g} s. The service may be busy with other "
                "requests, still reading a long prompt, or its streaming hangs: allow more "
                "first_token_timeout, "
                'try on_stall="fallback", or restart the service.',
                phase="first_token",
                limit_s=self._request.first_token_s,
            )
        return RequestTimeoutError(
            f"The stream went silent for {self._request.idle_s:g} s after {len(self._arrivals)} pieces of "
            "text. What had come is in .text of the stream; allow more idle_timeout, or ask again.",
            phase="idle",
            limit_s=self._request.idle_s,
        )

    def __reduce__(self) -> str:
        raise TypeError("A stream can't be copied or pickled: its connection is read once. Keep its .text.")

    def __repr__(self) -> str:
        state = self.finish_reason or ("reading" if self._arrivals else "waiting")
        return f"<{type(self).__name__} {state}, {len(self._arrivals)} pieces>"

    def _repr_markdown_(self) -> Any:
        return self.text or None
