"""The sync client: the async client's methods in plain calls, over one requests session."""

from __future__ import annotations

import http.client
import socket
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

import msgspec
import requests
import urllib3

from . import chat, health, protocol
from .chat import ChatOptions, ChatRequest
from .config import check_timeout
from .core import (
    CONNECT_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    ClientCore,
    Target,
    connect_timeout,
    hung_up,
    nobody_answers,
    not_http,
    relocate,
)
from .download import DOWNLOAD_TIMEOUT_S, Report, reporter
from .errors import FoundryError
from .metrics import Record
from .operations import Operation, Pause
from .protocol import Call, Reply
from .resilience import Deadline
from .sync_stream import SyncCompletionStream
from .sync_transport import ReadingUntil, TimedOut, open_session, read_body, root_cause
from .types import Completion, Health, Model

if TYPE_CHECKING:
    from .batch.options import BatchOptions, Items
    from .batch.report import BatchReport

T = TypeVar("T")


class SyncFoundryAPIClient(ClientCore):
    """Sync client of one Foundry Local service; safe to use from several threads.

    Works as `with SyncFoundryAPIClient() as client:` and without, connecting at first use. The arguments are
    `ClientCore`'s.
    """

    _session: requests.Session | None = None

    def complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
        """Return one whole answer. See `ChatOptions` for the options.

        Raises:
            FoundryError: one of the tree in `foundry_lab.errors`.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout)
        with self._observed("complete", request) as record:
            deadline = self._deadline(request.timeout_s)
            completion = self._run(lambda: chat.complete(self._directory, request), deadline, record)
            record.model, record.usage = completion.model, None if completion.cached else completion.usage
            return completion

    def stream_complete(
        self, prompt: str | None = None, **options: Unpack[ChatOptions]
    ) -> SyncCompletionStream:
        """Return an answer to iterate over as it is written: `for chunk in client.stream_complete(…)`.

        Nothing is sent before the iteration starts. As `with client.stream_complete(…) as stream:` the
        generation is cancelled at the service when the block is left early.

        Raises:
            ConfigurationError: an argument that can't be used. Everything else is raised by the iteration.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout, stream=True)
        return SyncCompletionStream(self, request)

    def complete_batch(self, items: Items, **options: Unpack[BatchOptions]) -> BatchReport:
        """Have many requests answered, as `FoundryAPIClient.complete_batch`; return when it has ended."""
        from .batch.thread import run_batch_in_thread

        return run_batch_in_thread(self, items, options)

    def health_check(self, *, probe: bool = False, timeout: float | None = None) -> Health:
        """Look at the service once. A service that is down gives `status == "unavailable"`, not an error.

        Args:
            probe: also have one token generated.
            timeout: seconds for the answer; the client's own limit if not given.
        """
        limit_s = self.settings.timeout if timeout is None else check_timeout(timeout)
        try:
            target = self._connected()
        except FoundryError as error:
            return health.unreachable(self.settings.endpoint, error)
        return self._manage(
            "health_check",
            lambda: health.check(self._directory, target.endpoint, target.versions, probe=probe),
            limit_s,
        )

    def list_models(self) -> list[Model]:
        """Return every model the service knows."""
        return self._manage("list_models", lambda: self._directory.list_models(), self.settings.timeout)

    def loaded_models(self) -> list[str]:
        """Return the ids of the models in memory."""
        return self._manage("loaded_models", lambda: self._directory.loaded_models(), self.settings.timeout)

    def load_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Load a model by alias or id; `timeout` in seconds."""
        return self._manage("load_model", lambda: self._directory.load(name, timeout), timeout)

    def unload_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Unload a model by alias or id, waiting while requests use it; `timeout` in seconds.

        Raises:
            ModelBusyError: it is still in use after `timeout`.
        """
        return self._manage("unload_model", lambda: self._directory.unload(name, timeout), timeout)

    def download_model(
        self, name: str, *, progress: bool | Report = True, timeout: float = DOWNLOAD_TIMEOUT_S
    ) -> Model:
        """Have the lab's service download a model, as `FoundryAPIClient.download_model` does."""
        with reporter(name, progress) as report:
            return self._manage("download_model", lambda: self._directory.download(name, report), timeout)

    def close(self) -> None:
        """Close the connections. The client can be used again and then opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> SyncFoundryAPIClient:
        self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one request travels: operation -> policies -> exchange ---------------------------------------

    def _manage(self, name: str, start: Callable[[], Operation[T]], timeout_s: float) -> T:
        with self._observed(name) as record:
            return self._run(start, self._deadline(check_timeout(timeout_s)), record)

    def _deadline(self, limit_s: float) -> Deadline:
        """Begin a request's time when the service is known: finding or starting it doesn't count."""
        self._connected()
        return Deadline(limit_s)

    def _run(
        self,
        start: Callable[[], Operation[T]],
        deadline: Deadline,
        record: Record,
        send: Callable[[Call, Deadline, Record], Reply] | None = None,
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
                    time.sleep(min(step.seconds, deadline.remaining()))
                else:
                    reply = (send or self._send)(step, deadline, record)
            except FoundryError as caught:
                error = caught

    def _send(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Have one call answered: by the cache where it can, else by the service."""
        key = self.cache.key(call) if self.cache is not None else None
        if self.cache is None or key is None:
            return self._ask(call, deadline, record)
        return self.cache.answer_sync(
            key, record.request_id, deadline, lambda: self._ask(call, deadline, record)
        )

    def _ask(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send one call under the policies: deadline over all attempts, breaker around each."""
        if call.once:
            return self._exchange(call, deadline, record.request_id)
        sent = 0
        for attempt in self.retry.attempts(deadline):
            with attempt, self._guard():
                record.retries += sent > 0
                sent += 1
                reply = self._exchange(call, deadline, record.request_id)
        return reply if sent == 1 else msgspec.structs.replace(reply, attempts=sent)

    def _exchange(self, call: Call, deadline: Deadline, request_id: str) -> Reply:
        """Send one call once and read its whole reply."""
        try:
            with ReadingUntil(deadline.at):
                response = self._dispatch(call, request_id, deadline.remaining())
                try:
                    watch = call.on_data if response.status_code == 200 else None
                    body = read_body(response, watch)
                finally:
                    response.close()  # gives the connection back when the body was read to its end
        except TimedOut:
            raise deadline.error() from None
        reply = Reply(response.status_code, response.headers, body, request_id)
        protocol.raise_for_status(reply, may_be_empty=call.may_be_empty)
        return reply

    def _dispatch(self, call: Call, request_id: str, limit_s: float) -> requests.Response:
        """Send a call; return the response when its headers are there.

        Raises:
            TimedOut: they weren't within the limit.
        """
        target = self._connected()
        base, headers = target.endpoint, {"X-Request-Id": request_id}
        if call.control:
            assert target.control_url is not None, "only the lab's own service has a control route"
            base, headers["Authorization"] = target.control_url, f"Bearer {target.control_token}"
        if limit_s <= 0:
            raise TimedOut
        connect_s, began = min(CONNECT_TIMEOUT_S, limit_s), time.monotonic()
        try:
            return self._pool().request(
                call.method,
                base + call.path,
                data=call.body,
                headers=headers,
                timeout=(connect_s, limit_s),
                stream=True,
                allow_redirects=False,
            )
        except requests.ConnectTimeout:  # Windows takes two seconds to refuse; a shorter limit cuts that off
            self._look_elsewhere()
            raise connect_timeout(base, connect_s, found=target.found) from None
        except requests.Timeout:
            if time.monotonic() - began < 0.9 * limit_s:  # only a TLS handshake ends before the limit
                raise connect_timeout(base, connect_s, found=target.found) from None
            raise TimedOut from None
        except requests.ConnectionError as error:
            cause = root_cause(error)
            if isinstance(cause, TimeoutError):
                raise TimedOut from None
            if isinstance(cause, http.client.HTTPException) and not isinstance(cause, ConnectionError):
                raise not_http(base, cause) from None
            if isinstance(
                cause, (urllib3.exceptions.NewConnectionError, ConnectionRefusedError, socket.gaierror)
            ):
                self._look_elsewhere()
                raise nobody_answers(base, cause, found=target.found) from None
            raise hung_up(base, cause) from None
        except requests.RequestException as error:
            raise not_http(base, error) from None

    # --- connection -----------------------------------------------------------------------------------

    def _connected(self) -> Target:
        """Return the service, finding or starting it the first time."""
        return self._target or self._search()

    def _look_elsewhere(self) -> None:
        """The service is gone from where it was: take the place where a lab service runs now, if one does."""
        if self._target is not None:
            moved = relocate(self._target)
            if moved is not None:
                self._connect_to(moved)

    def _pool(self) -> requests.Session:
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = open_session(self._headers)
                    weakref.finalize(self, self._session.close)
        return self._session
