"""The real service, killed, and another process at its port: that one gets no key, no prompt, no byte."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import psutil
import pytest
from clients import Client, both_clients
from service_tools import eventually

from foundry_lab import engine, errors

KEY, PROMPT = "key-for-nobody-else", "a prompt for nobody else"


class Stranger:
    """Listens at a port and keeps what comes."""

    def __init__(self, port: int) -> None:
        self.came: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._server.accept()
                with connection:
                    connection.settimeout(30)
                    self.came.append(connection.recv(65536))
        except OSError:
            return


@both_clients
def test_whoever_takes_the_port_of_a_killed_service_gets_nothing(kind: str, own_home: Path) -> None:
    with Client(kind, None, api_key=KEY, retries=1, breaker=False) as client:
        assert client.complete("Say hi.", max_tokens=4, timeout=60).content
        state = engine.service_status()
        assert state is not None
        process = psutil.Process(state.pid)
        process.kill()
        process.wait()
        with Stranger(int(state.url.rpartition(":")[2])) as stranger:
            for how in ("complete", "stream_text"):
                with pytest.raises(errors.ServiceUnavailableError, match="Another process listens"):
                    getattr(client, how)(PROMPT, max_tokens=4, timeout=60)
            assert eventually(lambda: len(stranger.came) >= 2)  # its thread reads each connection to the end
            engine.ensure_service(progress=False)
            assert client.complete("Say hi.", max_tokens=4, timeout=60).content  # it found the new one
        assert set(stranger.came) == {b""}
    engine.stop_service()
