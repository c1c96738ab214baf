"""aiohttp as the caller uses it: one exchange, sessions that nobody has to close, bodies that end."""

import asyncio
import contextlib
import functools
import io
import os
import ssl
from collections.abc import Callable, Mapping

import aiohttp
import truststore
from yarl import URL

from foundry_lab._ground.files import as_path
from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab._ground.listeners import Listener
from foundry_lab.calls.target import Target
from foundry_lab.calls.unanswered import another_answers, broken_body, no_answer
from foundry_lab.errors import ConfigurationError, RequestTimeoutError, ResponseFormatError
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import CHAT_PATH, Call, Reply, raise_for_status
from foundry_lab.protocol.headers import without_credentials
from foundry_lab.protocol.request import MAX_BODY_BYTES

CONNECT_TIMEOUT_S = 5.0
CONNECT_SHARE = 0.95
"""Of a request's time that is shorter than the limit for connecting: so that the error can name the phase."""
SHORTEST_CONNECT_S = 0.1
"""A limit below that is over before anybody can say which phase it was."""
LARGE_BODY_BYTES = 2**20
"""Above this aiohttp warns of bytes, as it sends them in one piece; a file it sends piece by piece."""


class Transport:
    """Sends one call once. It has a session for each event loop that it is used in: loops can't share one.

    Args:
        headers: of every request; credentials among them go to an endpoint that was named, and to no other.
        ca_file: whom to trust over https; see `_tls`.
    """

    def __init__(self, headers: Mapping[str, str], ca_file: str | os.PathLike[str] | None = None) -> None:
        self._headers = without_credentials(headers)
        self._credentials = {name: value for name, value in headers.items() if name not in self._headers}
        self._ca_file = as_path(ca_file, "ca_file") if ca_file is not None else None
        self._listeners: dict[int, Listener] = {}  # the process that must listen at a port, where it is known
        self._open: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The connections are the parent's: two processes that read one take each other's answers."""
        keep_unused(self._open)  # closing them here would unregister the parent's from its selector
        self._open = {}

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        """Trusts the authorities of a PEM file, or of SSL_CERT_FILE, or the system's.

        Raises:
            ConfigurationError: the file can't be read as certificates.
        """
        try:
            if self._ca_file is not None:
                return ssl.create_default_context(cafile=self._ca_file)
            if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
                return ssl.create_default_context()  # reads both variables; the system's store knows neither
        except OSError as error:
            raise ConfigurationError(
                f"ca_file={str(self._ca_file or '')!r} can't be used ({error}). Give a PEM file with the "
                "certificate of the authority that signed the server's."
            ) from None
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def expect(self, target: Target) -> None:
        """Note which process must listen at a target that was found."""
        if target.listener is not None:
            for url in (target.endpoint, target.control_url):
                if url is not None and (port := URL(url).port):
                    self._listeners[port] = target.listener

    async def exchange(self, call: Call, deadline: Deadline, request_id: str, target: Target) -> Reply:
        """Send a call and read its whole reply.

        Raises:
            FoundryError: the service isn't there, doesn't answer in time, or answers with an error.
        """
        try:
            async with asyncio.timeout(limit_s := deadline.remaining()):
                response = await self.dispatch(target, call, request_id, limit_s)
                body = await read_body(response, call.on_data if response.status == 200 else None)
        except RequestTimeoutError:
            raise
        except TimeoutError:
            raise deadline.error(generating=call.path == CHAT_PATH) from None
        reply = Reply(response.status, response.headers, body, request_id)
        raise_for_status(reply)
        return reply

    async def dispatch(
        self, target: Target, call: Call, request_id: str, limit_s: float
    ) -> aiohttp.ClientResponse:
        """Send a call; return the response when its headers are there. The limit is the caller's to keep."""
        base, headers = target.endpoint, {"X-Request-Id": request_id}
        if call.control:
            assert target.control_url is not None, "only the lab's own service has a control route"
            base, headers["Authorization"] = target.control_url, f"Bearer {target.control_token}"
        elif not target.found:
            headers.update(self._credentials)
        body = call.body
        connect_s = min(CONNECT_TIMEOUT_S, max(SHORTEST_CONNECT_S, CONNECT_SHARE * limit_s))
        try:
            return await self._session().request(
                call.method,
                URL(base + call.path, encoded=True),  # a model's name stands in it as it was quoted
                data=io.BytesIO(body) if body is not None and len(body) > LARGE_BODY_BYTES else body,
                headers=headers,
                allow_redirects=False,
                timeout=_to_connect(connect_s),
                ssl=self._tls if base.startswith("https:") else True,
            )
        except (aiohttp.ClientError, ConnectionError) as error:
            raise no_answer(error, base, connect_s, found=target.found) from None

    def _session(self) -> aiohttp.ClientSession:
        """Return the running loop's session; those of loops that have closed are given up."""
        loop = asyncio.get_running_loop()
        session = self._open.get(loop)
        if session is None:
            self.abandon(lambda loop: loop.is_closed())
            session = self._open[loop] = aiohttp.ClientSession(
                headers=self._headers,
                connector=_Connector(self._listeners),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session

    async def close(self) -> None:
        """Close all but those of loops that run in other threads, which may be in the middle of a request."""
        session = self._open.pop(asyncio.get_running_loop(), None)
        self.abandon(lambda loop: not loop.is_running())
        if session is not None:
            await session.close()

    def abandon(self, choose: Callable[[asyncio.AbstractEventLoop], bool] = lambda loop: True) -> None:
        """Close those of the chosen loops, or all, without aiohttp's warnings: nobody uses them any more."""
        for loop in list(self._open):
            if not choose(loop) or (session := self._open.pop(loop, None)) is None:
                continue
            if loop.is_running() and asyncio._get_running_loop() is not loop:
                with contextlib.suppress(RuntimeError):  # it was closed this moment
                    loop.call_soon_threadsafe(_close_now, session)
            else:
                _close_now(session)


@functools.lru_cache  # most requests have the same
def _to_connect(limit_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=limit_s)


class _Connector(aiohttp.TCPConnector):
    """Connects to a port only while the process that is noted for it listens there.

    A service that ended leaves its port to whoever comes next. We look after connecting and before sending:
    the system takes nobody else's connection while the noted process listens. Connections that are used
    again cost nothing more.
    """

    def __init__(self, listeners: Mapping[int, Listener]) -> None:
        super().__init__(limit=0)
        self._listeners = listeners

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client_proto.ResponseHandler:
        protocol = await super()._create_connection(req, traces, timeout)
        listener = self._listeners.get(req.url.port or 0)
        if listener is not None and protocol.transport is not None:
            peer = protocol.transport.get_extra_info("peername")  # None if it has hung up already
            if peer is not None and not listener.listens_at(peer[1]):
                protocol.close()
                raise another_answers(str(req.url.origin()))
        return protocol


def _close_now(session: aiohttp.ClientSession) -> None:
    """Close a session without awaiting it, as its loop may be about to end or have ended.

    Closing does its work before it first waits; what is left then is to wait for the sockets' last words.
    """
    closing = session.close()
    with contextlib.suppress(StopIteration, RuntimeError):
        closing.send(None)
    closing.close()


async def read_body(
    response: aiohttp.ClientResponse, on_data: Callable[[bytes], None] | None = None
) -> bytes:
    """Return the whole body, refusing one that would fill the memory.

    Args:
        on_data: called with each piece as it arrives.
    """
    content, parts, size = response.content, [], 0
    try:
        while not content.at_eof():
            part = await content.readany()
            if on_data is not None:
                on_data(part)
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise ResponseFormatError(
                    f"The answer is larger than {MAX_BODY_BYTES:,} bytes and was given up. Check that the "
                    "endpoint is Foundry Local."
                )
        return b"".join(parts)
    except (aiohttp.ClientError, ConnectionError) as error:
        raise broken_body(response, error) from None
    finally:
        response.close()  # closes no connection whose answer was read to its end
