"""The sync half of every call: an operation driven, each call under its policies, one exchange over requests."""

from __future__ import annotations

import http.client
import socket
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec
import requests
import urllib3

from foundry_lab import protocol
from foundry_lab.calls import health
from foundry_lab.calls.core import ClientCore
from foundry_lab.calls.operation import Operation, Pause
from foundry_lab.calls.sync_transport import ReadingUntil, TimedOut, open_session, read_body, root_cause
from foundry_lab.calls.target import (
    CONNECT_TIMEOUT_S,
    Target,
    connect_timeout,
    hung_up,
    nobody_answers,
    not_http,
    relocate,
)
from foundry_lab.config import check_timeout
from foundry_lab.errors import FoundryError
from foundry_lab.metrics import Record
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply
from foundry_lab.types import Health

if TYPE_CHECKING:
    pass

T = TypeVar("T")


class SyncCaller(ClientCore):
    """Has operations carried out over requests: drives them, sends their calls under the policies, finds the service."""

    _session: requests.Session | None = None

    def close(self) -> None:
        """Close the connections. The client can be used again and then opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # --- one request travels: operation -> policies -> exchange ---------------------------------------

    def _health(self, *, probe: bool, limit_s: float) -> Health:
        try:
            target = self._connected()
        except FoundryError as error:
            return health.unreachable(self.settings.endpoint, error)
        return self._manage(
            "health_check",
            lambda: health.check(self._directory, target.endpoint, target.versions, probe=probe),
            limit_s,
        )

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
