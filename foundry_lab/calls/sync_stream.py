"""The sync stream: the async stream's behaviour in a plain `for` loop."""

from __future__ import annotations

import contextlib
import logging
import time
from types import TracebackType

import requests

from foundry_lab.calls import chat
from foundry_lab.calls.chat import ChatRequest
from foundry_lab.calls.stream_state import DRAIN_S, StreamState
from foundry_lab.calls.sync_caller import SyncCaller
from foundry_lab.calls.sync_transport import ReadingUntil, TimedOut, read_body, read_some
from foundry_lab.errors import FoundryError, RequestTimeoutError, StreamInterruptedError
from foundry_lab.metrics import Record
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply
from foundry_lab.protocol import reply as reply_module
from foundry_lab.types import Chunk

_log = logging.getLogger("foundry_lab")


class SyncCompletionStream(StreamState):
    """One streamed answer. Iterate over it; its text, times and usage are attributes.

    The connection is given back when the answer is complete. It is closed, which stops the generation at the
    service, when the iteration fails, at `close()`, at the end of a `with` block, and when nobody holds the
    stream any more (a `break` out of a plain loop).
    """

    def __init__(self, client: SyncCaller, request: ChatRequest) -> None:
        super().__init__(request)
        self._client = client
        self._response: requests.Response | None = None
        self._deadline = Deadline(request.timeout_s)
        self._heard_at = time.monotonic()

    def __iter__(self) -> SyncCompletionStream:
        return self

    def __next__(self) -> Chunk:
        if not self._ready and not self._ended:
            try:
                if self._record is None:
                    self._start()
                self._heard_at = time.monotonic()  # the time a reader takes between two isn't the service's
                while not self._ready and not self._ended:
                    self._read()
            except BaseException as error:
                self._close(error)
                raise
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __enter__(self) -> SyncCompletionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the service stops generating."""
        self._ready.clear()
        self._close(GeneratorExit())

    def __del__(self) -> None:
        if self._response is not None:
            self._close(GeneratorExit())

    def _start(self) -> None:
        """Send the request and wait for the first text. Up to there, and no further, it may be sent again."""
        client, request = self._client, self._request
        record = self._begin(client)
        self._deadline = deadline = client._deadline(request.timeout_s)
        self._started = max(self._started, client._found_at)
        try:
            client._run(lambda: chat.open_stream(client._directory, request), deadline, record, self._send)
        except RequestTimeoutError as error:
            if error.phase != "first_token" or not request.fallback:
                raise
            _log.warning("%s: no token in time; asking again without streaming", record.request_id)
            self._let_go()
            self._take_whole(client._run(lambda: chat.complete(client._directory, request), deadline, record))

    def _send(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send under the client's policies; what isn't the answer itself takes the usual way."""
        if not call.generates:
            return self._client._send(call, deadline, record)
        for attempt in self._client.retry.attempts(deadline):
            with attempt:
                record.retries += attempt.num > 1
                self._let_go()
                self._attempt(self._client)
                try:
                    reply = self._open(call, deadline, record)
                except BaseException as error:
                    self._settle(self._client, error)
                    raise
        return reply

    def _open(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send once and read up to the first text."""
        self._heard_at = time.monotonic()
        limit_s = min(self._request.first_token_s, deadline.remaining())
        try:
            with ReadingUntil(self._heard_at + limit_s):
                response = self._response = self._client._dispatch(call, record.request_id, limit_s)
                reply = Reply(response.status_code, response.headers, b"", record.request_id)
                if response.status_code != 200 or not reply_module.is_event_stream(reply):
                    body = read_body(response)
                    raise reply_module.not_a_stream(
                        Reply(reply.status, reply.headers, body, reply.request_id)
                    )
        except TimedOut:
            raise self._silence(deadline) from None
        while not self._ready and not self._parser.done:
            self._read()
        return reply

    def _read(self) -> None:
        """Take the next bytes off the wire, or end the stream."""
        response = self._response
        if response is None or self._parser.done:
            self._drain()
            self._close(None)
            return
        limit_s = self._request.idle_s if self._arrivals else self._request.first_token_s
        try:
            with ReadingUntil(min(self._heard_at + limit_s, self._deadline.at)):
                data = read_some(response)
        except TimedOut:
            raise self._silence(self._deadline) from None
        except StreamInterruptedError as error:
            if self._parser.finish_reason is None:
                raise self._parser.broken(error) from None
            data = b""  # nothing is lost but perhaps the usage
        if not data:
            self._parser.end()
            self._parser.done = True
        else:
            self._feed(data)

    def _drain(self) -> None:
        """Read the end of the body, so that the connection can be used again."""
        if self._response is not None:
            with contextlib.suppress(TimedOut, FoundryError), ReadingUntil(time.monotonic() + DRAIN_S):
                while read_some(self._response):
                    pass

    def _close(self, error: BaseException | None) -> None:
        if not self._ended:
            self._let_go()
            self._settle(self._client, error)
            self._parser.model = self._parser.model or self._client._directory.meaning(self._request.model)
            self._finish(self._client, error)

    def _let_go(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        response, self._response = self._response, None
        if response is not None:
            response.close()
