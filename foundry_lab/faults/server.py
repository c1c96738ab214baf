"""The fault proxy's port: open, or refusing, and never a forked child's."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from foundry_lab.errors import ConfigurationError
from foundry_lab.faults.relay import Relay, restore_headers

HOST = "127.0.0.1"


class Server:
    """An HTTP server on a port of 127.0.0.1 that stays ours while it refuses connections.

    Args:
        handle: answers a request.
        relay: what `handle` uses; it is running while the server is.
        port: 0 takes a free one.

    Attributes:
        port: the one that was taken.

    Raises:
        ConfigurationError: the port is taken, or is none.
    """

    def __init__(
        self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]], relay: Relay, port: int
    ) -> None:
        self._socket = _bind(port)
        self.port: int = self._socket.getsockname()[1]
        self._turn = asyncio.Lock()
        self._site: web.SockSite | None = None
        app = web.Application(client_max_size=0)  # no limit: what is too large, the service says
        app.router.add_route("*", "/{path:.*}", handle)
        app.on_response_prepare.append(restore_headers)
        app.cleanup_ctx.append(relay.run)
        app.on_shutdown.append(relay.stop)
        # handler_cancellation: a client that leaves must end the request at the service too
        self._runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.5
        )

    async def fit(self, wants_to_listen: Callable[[], bool]) -> None:
        """Take connections if they are wanted, else refuse them and end those that exist."""
        async with self._turn:
            wanted = wants_to_listen()  # asked here, so that the last of several callers has its way
            if wanted and self._site is None:
                if self._runner.server is None:
                    await self._runner.setup()
                self._site = web.SockSite(self._runner, self._socket)
                await self._site.start()
            elif not wanted and self._site is not None:
                site, self._site = self._site, None
                await self._accept_no_more()
                await site.stop()
                for transport in self._transports():
                    transport.abort()
                self._socket = _bind(self.port)  # bound but not listening: keeps the port and refuses

    async def close(self) -> None:
        """End all connections and give the port up."""
        await self._accept_no_more()
        await self._runner.cleanup()
        self._socket.close()

    async def _accept_no_more(self) -> None:
        """Let go of the socket first: asyncio never closes a connection that comes as its server goes."""
        asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(3):  # turns of the loop, in which one that was accepted is made
            await asyncio.sleep(0)

    def after_fork(self) -> None:
        """Close the child's copies: a port or connection that it held open wouldn't end with the parent's."""
        self._socket.close()
        with Path(os.devnull).open() as nothing:
            for transport in self._transports():  # the objects belong to the parent's loop: left alone
                os.dup2(nothing.fileno(), transport.get_extra_info("socket").fileno())

    def _transports(self) -> list[asyncio.Transport]:
        connections = self._runner.server.connections if self._runner.server is not None else ()
        return [each.transport for each in connections if each.transport is not None]


def _bind(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows the option would let two programs share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
    except (OSError, OverflowError, TypeError) as error:
        sock.close()
        raise ConfigurationError(
            f"Port {port!r} on {HOST} can't be used ({error}). Give another port, or 0 for a free one."
        ) from None
    return sock
