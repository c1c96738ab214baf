"""Connections that aren't accepted, and TLS ones that are: the limits hold, and the error names the phase."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from clients import Client, both_clients
from stub_server import StubService

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, errors
from foundry_lab.calls import async_caller, async_transport
from foundry_lab.calls.target import Target

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def full() -> Iterator[str]:
    """The address of a server whose queue is full: connecting to it takes for ever."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def allow_connecting(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_transport, "CONNECT_TIMEOUT_S", seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses at once")
@both_clients
@pytest.mark.parametrize("usual", [False, True])
@pytest.mark.parametrize("how", ["complete", "stream_text"])
def test_a_connection_that_is_not_accepted_in_time(
    kind: str, how: str, usual: bool, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_s = connect_s = 4.0  # the connection gets 95 % of it
    if usual:  # the limit on connecting is far below the whole request's
        limit_s, connect_s = 30.0, 0.5
        allow_connecting(connect_s, monkeypatch)
    with Client(kind, full, model="m", retries=0) as client:
        began = time.monotonic()
        with pytest.raises(errors.RequestTimeoutError, match="didn't accept a connection") as caught:
            getattr(client, how)("hi", timeout=limit_s)
        assert time.monotonic() - began < 15
    assert caught.value.phase == "connect"
    assert 0.7 * connect_s <= caught.value.limit_s <= connect_s


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses at once")
@both_clients
def test_where_connecting_takes_too_long_the_service_may_have_moved(
    kind: str, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a refusal takes two seconds, which a shorter limit cuts off."""
    allow_connecting(0.5, monkeypatch)
    with StubService() as stub, Client(kind, None, retries=0) as client:
        monkeypatch.setattr(async_caller, "relocate", lambda old, resume: Target(stub.url, found=True))
        client.raw.caller._connect_to(Target(full, found=True))
        with pytest.raises(
            errors.RequestTimeoutError, match=r"didn't accept a connection.*foundry-lab status"
        ):
            client.complete("hi", timeout=30)
        assert client.complete("hi", timeout=30).content == "hello"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses at once")
async def test_a_limit_too_short_for_any_phase_is_the_callers(full: str) -> None:
    """A notebook allows next to no time for a token: on a busy machine even connecting takes longer."""
    async with FoundryAPIClient(full, model="m", retries=0) as client:
        client.caller.directory._chosen["m"] = "m"  # there's nobody to ask what it means
        with pytest.raises(errors.RequestTimeoutError) as caught:
            async for _ in client.stream_complete("hi", first_token_timeout=0.05):
                pass
    assert caught.value.phase == "first_token"


class DrippingTLSServer:
    """Speaks TLS, answers every request with a header and then a byte now and then.

    Args:
        folder: for the certificate of the authority, `ca`.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> DrippingTLSServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                plain, _ = self._server.accept()
                with self._context.wrap_socket(plain, server_side=True) as conversation:
                    conversation.recv(65536)
                    conversation.sendall(HEAD)
                    while not self._stop.wait(0.1):
                        conversation.sendall(b" ")
            except OSError:
                continue


@both_clients
def test_a_deadline_holds_over_tls_though_bytes_trickle_in(kind: str, tmp_path: Path) -> None:
    with (
        DrippingTLSServer(tmp_path) as server,
        Client(kind, server.url, model="m", ca_file=server.ca) as client,
    ):
        began = time.monotonic()
        with pytest.raises(errors.RequestTimeoutError) as caught:
            client.complete("hi", timeout=2)
        assert time.monotonic() - began < 15
    assert caught.value.phase == "total"


@both_clients
def test_a_certificate_nobody_vouches_for_is_refused(kind: str, tmp_path: Path) -> None:
    with (
        DrippingTLSServer(tmp_path) as server,
        Client(kind, server.url, model="m") as client,
        pytest.raises(errors.ConfigurationError, match=r"isn't trusted.*verify failed.*ca_file"),
    ):
        client.complete("hi", timeout=5)


@both_clients
def test_ssl_cert_file_names_the_authority_as_well(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DrippingTLSServer(tmp_path) as server, Client(kind, server.url, model="m") as client:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
        with pytest.raises(errors.RequestTimeoutError):  # trusted, and then it drips
            client.complete("hi", timeout=1)


@both_clients
def test_https_where_plain_http_is_spoken_says_so(kind: str) -> None:
    with (
        StubService() as stub,
        Client(kind, stub.url.replace("http:", "https:"), model="m") as client,
        pytest.raises(errors.ConfigurationError, match=r"doesn't speak TLS.*try http://127"),
    ):
        client.complete("hi", timeout=5)


@both_clients
def test_a_file_that_holds_no_certificates_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with (
        Client(kind, "https://127.0.0.1:9", model="m", ca_file=tmp_path / "ca.pem") as client,
        pytest.raises(errors.ConfigurationError, match=r"ca\.pem' can't be used"),
    ):
        client.complete("hi", timeout=5)


def test_a_server_that_does_not_answer_the_tls_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_connecting(0.3, monkeypatch)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        SyncFoundryAPIClient(f"https://127.0.0.1:{silent.getsockname()[1]}", model="m", retries=0) as client,
        pytest.raises(errors.RequestTimeoutError) as caught,
    ):
        client.complete("hi", timeout=20)
    assert caught.value.phase == "connect"
    assert caught.value.limit_s == 0.3
