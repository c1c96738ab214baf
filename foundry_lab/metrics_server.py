"""A client's metrics for Prometheus to fetch, on this machine only."""

from __future__ import annotations

import socket
import sys
import threading
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from .errors import ConfigurationError

HOST = "127.0.0.1"


class MetricsServer:
    """Serves a registry at `/metrics` from a thread, until `close` or the end of its `with` block.

    Args:
        registry: what to serve.
        port: on 127.0.0.1; 0 takes a free one.

    Attributes:
        url: where Prometheus finds it.

    Raises:
        ConfigurationError: the port is taken, or is none.
    """

    def __init__(self, registry: CollectorRegistry, port: int = 0) -> None:
        server: WSGIServer
        thread: threading.Thread
        try:
            if sys.platform == "win32" and port:  # where a second server may listen at a port that is taken
                with socket.socket() as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
                    trial.bind((HOST, port))
            server, thread = start_http_server(port, addr=HOST, registry=registry)
        except (OSError, OverflowError, TypeError) as error:
            raise ConfigurationError(
                f"The metrics can't be served on port {port!r} of {HOST} ({error}). Give another port, a "
                "number up to 65535, or 0 for a free one."
            ) from None
        self._server, self._thread = server, thread
        self.url = f"http://{HOST}:{server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving. Does nothing the second time."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}{'' if self._thread.is_alive() else ', closed'}>"
