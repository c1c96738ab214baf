"""A reverse proxy that makes things go wrong, to put between a client and a real service.

    with FaultProxy() as proxy:
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
import fnmatch
import random
import threading
import time
from collections import Counter, deque

import msgspec
from aiohttp import web

from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab.calls.portal import Portal
from foundry_lab.calls.target import Target, locate
from foundry_lab.config import Settings, check_endpoint
from foundry_lab.errors import ConfigurationError, EngineError, FoundryError
from foundry_lab.faults.kinds import Fault, FaultKind, check_route, pick
from foundry_lab.faults.relay import STATUS_SENT, Relay, refuse
from foundry_lab.faults.server import HOST, Server

LOG_LENGTH = 10_000


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
        upstream: base URL of the service; None finds or starts one, as a client without an endpoint does. The
            lab's own service is followed when it is started again at another port.
        port: on 127.0.0.1; 0 takes a free one.
        seed: makes the choice of requests that meet a fault repeatable.

    Attributes:
        log: what came and what happened to it, the latest 10,000 requests.

    Raises:
        ConfigurationError: not a service address, or, on starting, a port that is taken.
    """

    def __init__(self, upstream: str | None = None, *, port: int = 0, seed: int | None = None) -> None:
        self._port = port
        self._rng = random.Random(seed)
        self._relay = Relay(None if upstream is None else _named(upstream), self._rng)
        self._new_locks()
        self._faults: tuple[Fault, ...] = ()
        self._script: deque[Fault | None] = deque()
        self._script_route = "*"
        self.log: deque[ProxiedRequest] = deque(maxlen=LOG_LENGTH)
        # Windows' own loop says good-bye before a reset, and complains of it.
        self._portal = Portal("fault-proxy", asyncio.SelectorEventLoop)
        self._server: Server | None = None
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The proxy runs in the parent; in the child it doesn't, and may be started."""
        self._new_locks()
        if self._server is not None:
            self._server.after_fork()
        keep_unused((self._server, self._relay))
        self._server, self._port = None, 0
        self._relay = Relay(self._relay.target, self._rng)

    def _new_locks(self) -> None:
        self._lock = threading.Lock()
        self._life = threading.Lock()  # one thread at a time starts or closes

    @property
    def url(self) -> str:
        """Base URL for the client.

        Raises:
            FoundryError: the proxy isn't running.
        """
        if self._server is None:
            raise FoundryError("The fault proxy isn't running. Use it in a `with` block, or call start().")
        return f"http://{HOST}:{self._port}"

    @property
    def upstream(self) -> str | None:
        """Base URL of the service, None before it was found; may be set while the proxy runs."""
        return self._relay.target.endpoint if self._relay.target is not None else None

    @upstream.setter
    def upstream(self, value: str) -> None:
        self._relay.target = _named(value)

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
        if self._server is not None:
            self._portal.wait(self._server.fit(self._wants_to_listen))

    def script(self, *faults: Fault | FaultKind | None, route: str = "/v1/chat/completions") -> None:
        """Have the next requests to `route` meet these faults in turn, None letting one through.

        Requests after the last, and to other routes, meet what `set_faults` has switched on.

        Raises:
            ConfigurationError: a kind that doesn't exist, or "refused", which isn't for single requests; a
                fault for a share of the requests, or for another route; a route that is no path.
        """
        check_route(route)
        chosen = [fault if isinstance(fault, Fault) or fault is None else Fault(fault) for fault in faults]
        if any(fault is not None and fault.kind == "refused" for fault in chosen):
            raise ConfigurationError("'refused' can't be in a script, as it closes the port. Take 'reset'.")
        for fault in chosen:
            if fault is not None and (fault.rate < 1 or not fnmatch.fnmatchcase(route, fault.route)):
                raise ConfigurationError(
                    f"In a script each fault meets one request to {route}: leave out rate={fault.rate:g} and "
                    f"route={fault.route!r} of the fault, and give script(…, route=…)."
                )
        with self._lock:
            self._script = deque(chosen)
            self._script_route = route

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
            EngineError: there is no service and none can be started.
        """
        with self._life:
            if self._server is None:
                self._find()
                server = Server(self._handle, self._relay, self._port)
                self._port = server.port
                self._portal.wait(server.fit(self._wants_to_listen))
                self._server = server
        return self

    def _find(self) -> None:
        if self._relay.target is None:
            self._relay.target = locate(Settings())

    def close(self) -> None:
        """Stop listening and end all connections. Does nothing if it isn't running."""
        with self._life:
            server, self._server = self._server, None
            if server is not None:
                self._portal.wait(server.close())
                self._portal.close()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> FaultProxy:
        await asyncio.to_thread(self._find)  # may take seconds; a start in a thread can't be cancelled
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        where = self.url if self._server else "not running"
        faults = ", ".join(map(str, self._faults)) or "none"
        return f"<FaultProxy {where} -> {self.upstream or 'to be found'}, faults: {faults}>"

    # --- in the proxy's thread -------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (refusal := refuse(request, self.upstream)) is not None:
            return refusal
        fault = self._choose(request.path)
        request_id = request.headers.get("X-Request-Id", "")
        entry = ProxiedRequest(time.monotonic(), request.method, request.path, request_id, str(fault or ""))
        self.log.append(entry)
        try:
            response = await self._relay.answer(request, fault)
            if response is None:
                return web.Response(status=503)  # for the server, and who waited for the proxy's end
            entry.status = response.status
            return response
        except asyncio.CancelledError:
            entry.client_left = self._server is not None and self._wants_to_listen()  # else the proxy left
            entry.status = request.get(STATUS_SENT)
            raise
        finally:
            entry.duration_s = time.monotonic() - entry.at_s

    def _choose(self, path: str) -> Fault | None:
        with self._lock:
            if self._script and fnmatch.fnmatchcase(path, self._script_route):
                return self._script.popleft()
            return pick(self._faults, path, self._rng.random()) if self._faults else None

    def _wants_to_listen(self) -> bool:
        return all(fault.kind != "refused" for fault in self._faults)


def _named(upstream: str) -> Target:
    """Return the target at an address that was given; the lab's own service there counts as found."""
    url = check_endpoint(upstream, "upstream")
    with contextlib.suppress(EngineError):  # a damaged note of the lab's is no matter of another service
        return Target(url, found=locate(Settings(endpoint=url)).control_url is not None)
    return Target(url)
