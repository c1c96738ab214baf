"""A reverse proxy that makes things go wrong, to put between a client and a real service.

    with FaultProxy(service_url) as proxy:
        proxy.set_faults(Fault("status", status=503, rate=0.3, route="/v1/*"))
        client = FoundryAPIClient(proxy.url)
        ...
        proxy.clear()
        print(proxy.log[-1])

It runs in a thread of its own, so that sync and async clients can use it from the same notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter, deque
from types import TracebackType

import msgspec
from aiohttp import web

from foundry_lab.config import check_endpoint
from foundry_lab.errors import ConfigurationError, FoundryError
from foundry_lab.faults.kinds import KINDS, UNANSWERED, Fault, FaultKind, mix, pick
from foundry_lab.faults.relay import Relay, restore_headers

__all__ = ["KINDS", "Fault", "FaultKind", "FaultProxy", "ProxiedRequest", "mix"]

HOST = "127.0.0.1"
START_TIMEOUT_S = 10.0
LOG_LENGTH = 10_000
MAX_REQUEST_BYTES = 64 * 2**20


class ProxiedRequest(msgspec.Struct):
    """One request as the proxy saw it.

    Attributes:
        at_s: when it came, in seconds of `time.monotonic()`.
        request_id: the client's `X-Request-Id`; all attempts of one call share it.
        fault: what it met, such as "stall" or "status 503"; empty if it was passed through.
        status: HTTP status that was sent, or None if it didn't come to that.
        duration_s: until the answer's last byte, or the end of the connection; None while it is under way.
        client_left: the client closed the connection before the end.
    """

    at_s: float
    method: str
    path: str
    request_id: str = ""
    fault: str = ""
    status: int | None = None
    duration_s: float | None = None
    client_left: bool = False


class FaultProxy:
    """Passes requests on to a service byte for byte, streams unbuffered, except where a fault was asked for.

    Use it in a `with` or `async with` block, or call `start` and `close`. Faults may be switched at any time,
    from any thread; requests under way keep the fault they met.

    Args:
        upstream: base URL of the service.
        port: on 127.0.0.1; 0 takes a free one.
        seed: makes the choice of requests that meet a fault repeatable.

    Attributes:
        log: what came and what happened to it, the latest 10,000 requests.

    Raises:
        ConfigurationError: not a service address, or, on starting, a port that is taken.
    """

    def __init__(self, upstream: str, *, port: int = 0, seed: int | None = None) -> None:
        self._upstream = check_endpoint(upstream, "upstream")
        self._port = port
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()
        self._script: deque[Fault | None] = deque()
        self._script_route = Fault("latency")
        self.log: deque[ProxiedRequest] = deque(maxlen=LOG_LENGTH)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Lock | None = None
        self._relay: Relay | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Base URL for the client.

        Raises:
            FoundryError: the proxy isn't running.
        """
        if self._thread is None:
            raise FoundryError(
                "The fault proxy isn't running. Use it in a `with` block, or call start() first."
            )
        return f"http://{HOST}:{self._port}"

    @property
    def upstream(self) -> str:
        """Base URL of the service; may be set while the proxy runs, as when the service has moved."""
        return self._upstream

    @upstream.setter
    def upstream(self, value: str) -> None:
        self._upstream = check_endpoint(value, "upstream")
        if self._relay is not None:
            self._relay.upstream = self._upstream

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that are switched on."""
        return self._faults

    @property
    def in_flight(self) -> int:
        """Requests that the proxy is still busy with."""
        return sum(entry.duration_s is None for entry in list(self.log))

    def set_faults(self, *faults: Fault | FaultKind) -> None:
        """Switch these faults on and all others off. Where several fit a request, at most one happens.

        Raises:
            ConfigurationError: a kind that doesn't exist.
        """
        chosen = tuple(fault if isinstance(fault, Fault) else Fault(fault) for fault in faults)
        with self._lock:
            self._faults = chosen
            self._script.clear()
        self._apply()

    def script(self, *faults: Fault | FaultKind | None, route: str = "/v1/chat/completions") -> None:
        """Have the next requests to `route` meet these faults in turn, None letting one through.

        Requests after the last, and to other routes, meet what `set_faults` has switched on.

        Raises:
            ConfigurationError: a kind that doesn't exist, or "refused", which isn't for single requests.
        """
        chosen = [fault if isinstance(fault, Fault) or fault is None else Fault(fault) for fault in faults]
        if any(fault is not None and fault.kind == "refused" for fault in chosen):
            raise ConfigurationError(
                '"refused" can\'t stand in a script, as it closes the port. Take "reset".'
            )
        with self._lock:
            self._script = deque(chosen)
            self._script_route = Fault("latency", route=route)

    def clear(self) -> None:
        """Switch all faults off."""
        self.set_faults()

    def counts(self) -> Counter[str]:
        """Return how many requests met each fault; those that passed are under the empty string."""
        return Counter(entry.fault for entry in list(self.log))

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> FaultProxy:
        """Begin to listen; return the proxy. Does nothing if it listens already.

        Raises:
            ConfigurationError: the port is taken.
        """
        if self._thread is not None:
            return self
        self._socket = self._bind(self._port)
        self._port = self._socket.getsockname()[1]
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(ready,), name="fault-proxy", daemon=True)
        thread.start()
        if not ready.wait(START_TIMEOUT_S):
            raise FoundryError("The fault proxy didn't start. The machine may be overloaded: try again.")
        self._thread = thread
        return self

    def _run(self, ready: threading.Event) -> None:
        # Windows' own loop says good-bye before a reset, and complains of it.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._serve(ready))

    def close(self) -> None:
        """Stop listening and end all connections. Does nothing if it isn't running."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._relay is not None:
            self._loop.call_soon_threadsafe(self._relay.stopping.set)
            thread.join(START_TIMEOUT_S)

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> FaultProxy:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        where = self.url if self._thread else "not running"
        return (
            f"<FaultProxy {where} -> {self._upstream}, faults: {', '.join(map(str, self._faults)) or 'none'}>"
        )

    # --- in the proxy's thread -------------------------------------------------------------------------

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._turn = asyncio.get_running_loop(), asyncio.Lock()
        relay = self._relay = Relay(self._upstream, self._rng)
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(restore_headers)
        # handler_cancellation: a client that leaves must end the request at the service too
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await self._fit_port()
            ready.set()
            await relay.stopping.wait()
        finally:
            await self._runner.cleanup()
            self._site = None  # it may be started again
            await relay.close()
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert self._relay is not None
        fault = self._choose(request.path)
        entry = ProxiedRequest(
            time.monotonic(),
            request.method,
            request.path,
            request.headers.get("X-Request-Id", ""),
            str(fault) if fault else "",
        )
        self.log.append(entry)
        try:
            response = await self._relay.answer(request, fault)
            if response.prepared or fault is None or fault.kind not in UNANSWERED:
                entry.status = response.status
            return response
        except (asyncio.CancelledError, ConnectionError):
            entry.client_left = True
            raise
        finally:
            entry.duration_s = time.monotonic() - entry.at_s

    def _choose(self, path: str) -> Fault | None:
        with self._lock:
            if self._script and self._script_route.is_for(path):
                return self._script.popleft()
            faults = self._faults
            return pick(faults, path, self._rng.random()) if faults else None

    def _apply(self) -> None:
        """Have the port fit the faults, and wait for it."""
        if self._thread is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._fit_port(), self._loop).result(START_TIMEOUT_S)

    async def _fit_port(self) -> None:
        """Close the port while "refused" is among the faults, else listen. Callers take turns."""
        assert self._runner is not None and self._turn is not None
        async with self._turn:
            wanted = all(fault.kind != "refused" for fault in self._faults)
            if wanted and self._site is None:
                self._site = web.SockSite(self._runner, self._socket or self._bind(self._port))
                self._socket = None
                await self._site.start()
            elif not wanted and self._site is not None:
                site, self._site = self._site, None
                await site.stop()
                for connection in list(self._runner.server.connections if self._runner.server else ()):
                    if connection.transport is not None:
                        connection.transport.abort()
                self._socket = self._bind(self._port)  # bound but not listening: keeps the port and refuses

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows the option would let two programs share the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
        except (OSError, OverflowError, TypeError) as error:
            with contextlib.suppress(OSError):
                sock.close()
            raise ConfigurationError(
                f"Port {port!r} on {HOST} can't be used ({error}). Give another port, or 0 for a free one."
            ) from None
        return sock
