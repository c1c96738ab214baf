"""The fault proxy: what it lets through is untouched, what it spoils is spoiled as asked."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
from fault_mix import mix
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer, sends
from stub_server import CHAT, DONE, ROLE, StubService, chat, delta, hang, reply, stream
from threads import left, working

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient, engine
from foundry_lab.engine import ServiceState
from foundry_lab.errors import (
    ConfigurationError,
    FoundryError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
)
from foundry_lab.faults.kinds import KINDS, pick
from foundry_lab.faults.proxy import Fault, FaultProxy


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as server:
        yield server


@pytest.fixture
def proxy(stub: StubService) -> Iterator[FaultProxy]:
    with FaultProxy(stub.url) as running:
        yield running


ODD = {"X-Odd": "a  b", "Accept-Encoding": "gzip"}


def client_of(proxy: FaultProxy, **kwargs: object) -> SyncFoundryAPIClient:
    return SyncFoundryAPIClient(proxy.url, **{"timeout": 30.0, "retries": 0, "metrics": False, **kwargs})


def fetch(
    url: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = ODD
) -> tuple[int, str, list[tuple[str, str]], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request(method, path, body=body or None, headers=dict(headers))
    response = connection.getresponse()
    answer = response.status, response.reason, response.getheaders(), response.read()
    connection.close()
    return answer


def _established(url: str) -> list[object]:
    """Connections to this address that are open on our side."""
    return [
        each
        for each in psutil.Process().net_connections("tcp4")
        if each.raddr and each.raddr.port == urlsplit(url).port and each.status == psutil.CONN_ESTABLISHED
    ]


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.005)


# --- passing through --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, bytes(range(256)) * 300, content_type="application/octet-stream"),
        reply(200, b"\x1f\x8bnot really gzip", headers={"Content-Encoding": "gzip", "X-A": "1"}),
        reply(404, b"server=oatpp", content_type="text/plain"),
        reply(302, b"", headers={"Location": "http://elsewhere/"}),
    ],
)
def test_an_answer_passes_byte_for_byte(stub: StubService, proxy: FaultProxy, answer: object) -> None:
    stub.on("POST", "/v1/a%3Ab", answer)
    direct = fetch(stub.url, "POST", "/v1/a%3Ab", b'{"x": "\xc3\xa9"}')
    proxied = fetch(proxy.url, "POST", "/v1/a%3Ab", b'{"x": "\xc3\xa9"}')
    undated = [[(n, v) for n, v in each[2] if n not in ("Date", "Connection")] for each in (direct, proxied)]
    assert (direct[0], direct[1], direct[3]) == (proxied[0], proxied[1], proxied[3])
    assert undated[0] == undated[1]
    first, second = stub.seen
    assert (first.path, first.body) == (second.path, second.body)
    assert {k: v for k, v in first.headers.items() if k not in ("host", "connection")} == {
        k: v for k, v in second.headers.items() if k not in ("host", "connection")
    }


def test_a_compressed_request_passes_byte_for_byte(stub: StubService, proxy: FaultProxy) -> None:
    """Its length is that of the compressed bytes: of others, as many would be cut off."""
    body = gzip.compress(b'{"x": "%s"}' % (b"a" * 500))
    fetch(proxy.url, "POST", "/v1/a", body, headers={"Content-Encoding": "gzip"})
    assert stub.seen[-1].headers["content-length"] == str(len(body))
    assert stub.seen[-1].body == gzip.decompress(body)  # aiohttp has decompressed it, in the stub


def test_headers_that_the_service_leaves_out_are_not_made_up() -> None:
    """Foundry Local's 404 has no content type; aiohttp would add one, and a date."""
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nConnection: close\r\n\r\nserver=oatpp"
    with RawServer(sends(answer)) as server, FaultProxy(server.url) as proxy:
        status, reason, headers, body = fetch(proxy.url, "POST", CHAT, b"{}")
    assert (status, reason, body) == (404, "Not Found", b"server=oatpp")
    assert not {"content-type", "date", "server"} & {name.lower() for name, _ in headers}


def test_head_brings_the_headers_and_no_body(stub: StubService, proxy: FaultProxy) -> None:
    stub.on("HEAD", "/status", reply(200, b"", headers={"X-A": "1"}))
    status, _, headers, body = fetch(proxy.url, "HEAD", "/status")
    assert (status, dict(headers)["X-A"], body) == (200, "1", b"")


def test_head_passes_though_the_service_sends_a_body_with_it() -> None:
    """Foundry Local does, against the rule."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    with RawServer(sends(answer), path=None) as server, FaultProxy(server.url) as proxy:
        status, _, headers, body = fetch(proxy.url, "HEAD", "/status")
    assert (status, dict(headers)["Content-Length"], body) == (200, "4", b"")


def test_head_takes_a_header_of_any_language(stub: StubService, proxy: FaultProxy) -> None:
    stub.on("HEAD", "/status", reply(200, b""))
    assert (
        fetch(proxy.url, "HEAD", "/status", headers={"X-Name": "zażółć".encode().decode("latin-1")})[0] == 200
    )
    assert stub.seen[-1].headers["x-name"] == "zażółć"


@pytest.mark.parametrize("more", ["", "Connection: keep-alive\r\n"])
def test_an_old_client_gets_a_stream_too(stub: StubService, proxy: FaultProxy, more: str) -> None:
    """HTTP/1.0 has no chunks: the connection's end is the stream's."""
    stub.on("POST", CHAT, stream(ROLE + DONE))
    there = urlsplit(proxy.url)
    with socket.create_connection(("127.0.0.1", there.port or 0), timeout=20) as caller:
        head = f"POST {CHAT} HTTP/1.0\r\nHost: {there.netloc}\r\nContent-Length: 2\r\n{more}\r\n"
        caller.sendall(head.encode() + b"{}")
        answer = b"".join(iter(lambda: caller.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (head.split()[1], body) == (b"200", ROLE + DONE)
    assert b"chunked" not in head


@pytest.mark.parametrize("host", ["{upstream}", "{proxy}"])
def test_a_client_that_takes_it_for_an_http_proxy_is_served(
    stub: StubService, proxy: FaultProxy, host: str
) -> None:
    """Such a client sends the whole URL, as RFC 9112, section 3.2.2, says."""
    host = host.format(upstream=stub.url, proxy=proxy.url)
    for path in ("/v1/a%3Ab?c=%20", "/"):
        fetch(proxy.url, "GET", host + path, headers={"Host": urlsplit(host).netloc})
        assert stub.seen[-1].path == path
    assert proxy.log[0].path == "/v1/a:b"


def test_a_doubled_header_stays_doubled() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Type: text/event-stream\r\n"
    with (
        RawServer(sends(head + b"Connection: close\r\n\r\n" + DONE)) as server,
        FaultProxy(server.url) as proxy,
    ):
        _, _, headers, body = fetch(proxy.url, "POST", CHAT, b"{}")
    assert [value for name, value in headers if name == "Content-Type"] == ["text/event-stream"] * 2
    assert body == DONE


def test_a_stream_is_one_however_its_type_is_written() -> None:
    """Content types are the same in any case: RFC 9110, section 8.3.1."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nConnection: close\r\n\r\n"
    with RawServer(sends(head + DONE)) as server, FaultProxy(server.url) as proxy:
        proxy.set_faults(Fault("duplicate", after=0))
        _, _, _, body = fetch(proxy.url, "POST", CHAT, b"{}")
    assert body == DONE * 2


async def test_a_stream_is_not_held_back(stub: StubService, proxy: FaultProxy) -> None:
    """The first event is here though the stub has nothing more to say."""
    stub.on("POST", CHAT, stream(ROLE + delta("a"), then="hang"))
    async with (
        FoundryAPIClient(proxy.url, timeout=30, metrics=False) as client,
        client.stream_complete("hi") as answer,
    ):
        assert (await anext(answer)).content == "a"


def test_a_client_that_leaves_ends_the_request_at_the_service(stub: StubService, proxy: FaultProxy) -> None:
    with client_of(proxy) as client:
        client.complete("hi")
        stub.on("POST", CHAT, hang)
        with pytest.raises(RequestTimeoutError):
            client.complete("hi", timeout=0.5)
    deadline = time.monotonic() + 20
    while proxy.in_flight or _established(stub.url):
        assert time.monotonic() < deadline, "the request goes on after the client has left"
        time.sleep(0.01)
    assert proxy.log[-1].client_left


def test_of_an_answer_that_had_begun_the_status_is_noted(stub: StubService, proxy: FaultProxy) -> None:
    """It was sent, though the client left before the end."""
    stub.on("POST", CHAT, stream(ROLE + delta("a"), then="hang"))
    with client_of(proxy) as client, client.stream_complete("hi") as answer:
        next(iter(answer))
    durations(proxy)
    assert (proxy.log[-1].status, proxy.log[-1].client_left) == (200, True)


@pytest.mark.parametrize("ends", ["refused", "closed"])
def test_a_client_whose_connection_the_proxy_ends_has_not_left(
    stub: StubService, proxy: FaultProxy, ends: str
) -> None:
    stub.on("POST", CHAT, hang)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(fetch, proxy.url, "POST", CHAT, b"{}")
        wait_until(lambda: stub.count("POST", CHAT) == 1)
        if ends == "refused":
            proxy.set_faults("refused")
        else:
            proxy.close()
        assert isinstance(call.exception(), OSError)
    durations(proxy)
    assert not proxy.log[-1].client_left


def test_works_from_the_event_loop_it_is_called_in(stub: StubService) -> None:
    async def run() -> str:
        async with FaultProxy(stub.url) as proxy, FoundryAPIClient(proxy.url, metrics=False) as client:
            return (await client.complete("hi")).content

    assert asyncio.run(run()) == "hello"


# --- faults -----------------------------------------------------------------------------------------------


def test_refused_closes_the_port_and_opens_it_again(proxy: FaultProxy) -> None:
    address = ("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    with client_of(proxy) as client:
        assert client.complete("hi").content == "hello"
        proxy.set_faults("refused")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=10)
        with pytest.raises(ServiceUnavailableError):
            client.complete("hi")
        proxy.clear()
        assert client.complete("hi").content == "hello"


def test_status_carries_retry_after(stub: StubService, proxy: FaultProxy) -> None:
    proxy.set_faults(Fault("status", status=429, retry_after=7, route=CHAT))
    with client_of(proxy) as client, pytest.raises(RateLimitError) as caught:
        client.complete("hi")
    assert caught.value.retry_after == 7
    assert stub.count("POST", CHAT) == 0


def test_a_reset_never_reaches_the_service(stub: StubService, proxy: FaultProxy) -> None:
    proxy.set_faults(Fault("reset", route=CHAT))
    with client_of(proxy) as client, pytest.raises(ServiceUnavailableError):
        client.complete("hi")
    assert stub.count("POST", CHAT) == 0
    assert (proxy.log[-1].fault, proxy.log[-1].status) == ("reset", None)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_are_told_apart_by_whichever_line_ends(newline: bytes) -> None:
    """Many services end their lines as HTTP does."""
    events = [b"data: %d" % number + 2 * newline for number in range(4)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with RawServer(sends(head + b"".join(events))) as server, FaultProxy(server.url) as proxy:
        proxy.set_faults(Fault("duplicate", after=2))
        assert fetch(proxy.url, "POST", CHAT, b"{}")[3] == b"".join([*events[:3], *events[2:]])


def test_an_answer_that_is_to_be_spoiled_is_not_asked_for_compressed(
    stub: StubService, proxy: FaultProxy
) -> None:
    fetch(proxy.url, "GET", "/status", headers={"Accept-Encoding": "gzip"})
    proxy.set_faults("malformed_json")
    fetch(proxy.url, "GET", "/status", headers={"Accept-Encoding": "gzip"})
    assert ["accept-encoding" in each.headers for each in stub.seen] == [True, False]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_http_is_named_and_noted(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not as a fault of the proxy's own, with a traceback in the notebook."""
    with RawServer(sends(b"SSH-2.0-OpenSSH\r\n\r\n"), path=None) as server, FaultProxy(server.url) as proxy:
        status, _, _, body = fetch(proxy.url, method, "/status")
        durations(proxy)
        assert (status, proxy.log[-1].status) == (502, 502)
        assert method == "HEAD" or f"no HTTP answer from {server.url}" in body.decode()
    assert caplog.text == ""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_service_that_hangs_up_is_passed_on_and_noted_without_a_status(method: str) -> None:
    with RawServer(sends(b""), path=None) as server, FaultProxy(server.url) as proxy:
        with pytest.raises(ConnectionResetError):
            fetch(proxy.url, method, "/status")
        durations(proxy)
        assert (proxy.log[-1].status, proxy.log[-1].client_left) == (None, False)


def durations(proxy: FaultProxy) -> list[float]:
    """Return what the log says once the proxy is idle: a client has its answer a moment before that."""
    deadline = time.monotonic() + 20
    while proxy.in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return [entry.duration_s for entry in proxy.log if entry.duration_s is not None]


def test_latency_delays_and_lognormal_spreads(proxy: FaultProxy) -> None:
    with client_of(proxy) as client:
        client.complete("hi")
        proxy.set_faults(Fault("latency", delay_s=0.2, route=CHAT))
        client.complete("hi")
        assert durations(proxy)[-1] > 0.18  # a timer may fire a tick early
        proxy.set_faults(Fault("latency", delay_s=0.02, sigma=1.0, route=CHAT))
        for _ in range(5):
            client.complete("hi")
        assert len({round(duration, 3) for duration in durations(proxy)[-5:]}) > 2


def test_drip_delivers_everything_slowly(stub: StubService, proxy: FaultProxy) -> None:
    stub.on("POST", CHAT, chat("hello"))
    proxy.set_faults(Fault("drip", delay_s=0.01, route=CHAT))
    with client_of(proxy, timeout=10) as client:
        assert client.complete("hi").content == "hello"
        assert durations(proxy)[-1] > 0.1


def test_duplicate_repeats_one_event(stub: StubService, proxy: FaultProxy) -> None:
    stub.on("POST", CHAT, chat("a b c d"))
    proxy.set_faults(Fault("duplicate", after=2, route=CHAT))
    with client_of(proxy) as client:
        assert "".join(chunk.content for chunk in client.stream_complete("hi")) == "a b b c d"


def test_a_script_is_played_in_order_and_then_is_over(proxy: FaultProxy) -> None:
    proxy.script(Fault("status", status=503), None, Fault("status", status=500))
    with client_of(proxy) as client:
        seen = []
        for _ in range(4):
            try:
                seen.append(client.complete("hi").content)
            except ServerError as error:
                seen.append(str(error.status))
    assert seen == ["503", "hello", "500", "hello"]
    assert [entry.fault for entry in proxy.log if entry.path == CHAT] == ["status 503", "", "status 500", ""]


def test_faults_stay_on_their_route(proxy: FaultProxy) -> None:
    proxy.set_faults(Fault("status", route="/v1/*"))
    assert fetch(proxy.url, "GET", "/status")[0] == 200
    assert fetch(proxy.url, "GET", "/v1/models")[0] == 500


def test_the_same_seed_gives_the_same_faults(stub: StubService) -> None:
    def run() -> list[str]:
        with FaultProxy(stub.url, seed=5) as proxy:
            proxy.set_faults(Fault("status", rate=0.5))
            for _ in range(20):
                fetch(proxy.url, "GET", "/status")
            return [entry.fault for entry in proxy.log]

    first = run()
    assert first == run()
    assert {"", "status 500"} == set(first)


@given(st.floats(0, 1, exclude_max=True), st.lists(st.floats(0.01, 0.2), min_size=1, max_size=5))
def test_one_draw_gives_each_fault_its_share(draw: float, rates: list[float]) -> None:
    faults = tuple(Fault("latency", rate=rate, delay_s=number) for number, rate in enumerate(rates))
    chosen = pick(faults, "/", draw)
    if draw < sum(rates) - 1e-9:
        assert chosen is not None
        below = sum(rates[: int(chosen.delay_s)])
        assert below - 1e-9 <= draw <= below + chosen.rate + 1e-9
    elif draw > sum(rates) + 1e-9:
        assert chosen is None


def test_a_mix_has_the_rate_that_was_asked_for() -> None:
    faults = mix(0.2)
    assert sum(fault.rate for fault in faults) == pytest.approx(0.2)
    met = Counter(fault and fault.kind for fault in (pick(faults, "/", n / 1000) for n in range(1000)))
    assert met[None] == pytest.approx(800, abs=2)
    assert len(met) == 1 + len(set(KINDS) - {"refused", "duplicate"})


# --- who is served ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_a_web_page_of_elsewhere_is_refused(
    stub: StubService, proxy: FaultProxy, headers: dict[str, str]
) -> None:
    """A page can send requests here, and with a name that leads here read the answers."""
    proxy.script("reset", route="*")
    status, _, _, body = fetch(proxy.url, "GET", "/status", headers=headers)
    assert status == 403
    assert "Ask from a program" in json.loads(body)["error"]["message"]
    assert (stub.seen, list(proxy.log)) == ([], [])


def test_a_page_of_its_own_or_a_program_that_names_localhost_is_served(proxy: FaultProxy) -> None:
    port = urlsplit(proxy.url).port
    for headers in ({"Host": f"localhost:{port}"}, {"Origin": proxy.url, "Sec-Fetch-Site": "same-origin"}):
        assert fetch(proxy.url, "GET", "/status", headers=headers)[0] == 200


# --- the lab's own service --------------------------------------------------------------------------------


@pytest.fixture
def lab_service(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the engine says that the lab's service is: an address that a test may change."""
    where = [""]

    def status() -> ServiceState:
        return ServiceState(pid=1, create_time=0, url=where[0], control_url="http://127.0.0.1:1")

    monkeypatch.delenv("FOUNDRY_ENDPOINT", raising=False)
    monkeypatch.setattr(engine, "ensure_service", lambda settings: where[0])
    monkeypatch.setattr(engine, "service_status", status)
    monkeypatch.setattr(engine, "control_for", lambda endpoint: status() if endpoint == where[0] else None)
    return where


@pytest.mark.parametrize("named", [False, True])
def test_the_labs_service_is_followed_when_it_is_started_again(lab_service: list[str], named: bool) -> None:
    """Else a client behind the proxy finds the service dead for ever."""
    with contextlib.ExitStack() as stack:
        with StubService() as first:
            lab_service[0] = first.url
            proxy = stack.enter_context(FaultProxy(first.url if named else None))
            assert fetch(proxy.url, "GET", "/status")[0] == 200
        assert fetch(proxy.url, "GET", "/status")[0] == 502
        again = stack.enter_context(StubService())
        lab_service[0] = again.url
        assert fetch(proxy.url, "POST", CHAT, b"{}")[0] == 200
        assert proxy.upstream == again.url
        assert again.count("POST", CHAT) == 1


@pytest.mark.parametrize("found", [True, False])
def test_a_key_is_passed_on_to_a_service_that_was_named_only(
    stub: StubService, lab_service: list[str], found: bool
) -> None:
    lab_service[0] = stub.url if found else "http://127.0.0.1:9"
    with FaultProxy(None if found else stub.url) as proxy:
        fetch(proxy.url, "GET", "/status", headers={"Authorization": "Bearer secret", "X-Team": "a"})
    assert stub.seen[-1].headers.get("authorization") == (None if found else "Bearer secret")
    assert stub.seen[-1].headers["x-team"] == "a"


def test_another_service_is_not_replaced_by_the_labs(lab_service: list[str]) -> None:
    with StubService() as other:
        url = other.url
    with FaultProxy(url) as proxy:
        assert fetch(proxy.url, "GET", "/status")[0] == 502
        assert proxy.upstream == url


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"kind": "gremlin"}, "gremlin"),
        ({"kind": "reset", "rate": 0}, "rate"),
        ({"kind": "reset", "rate": float("nan")}, "rate"),
        ({"kind": "latency", "delay_s": -1}, "delay_s"),
        ({"kind": "latency", "delay_s": float("inf")}, "delay_s=inf must be .* finite"),
        ({"kind": "status", "status": 200}, "200"),
        ({"kind": "status", "status": "503"}, "status is a str; give a whole number"),
        ({"kind": "reset", "rate": "0.5"}, "rate is a str; give a number"),
        ({"kind": "cut", "after": None}, "after is a NoneType; give a whole number"),
        ({"kind": "cut", "after": 2.5}, "after is a float; give a whole number"),  # no event has that number
        ({"kind": "status", "retry_after": "1"}, "retry_after is a str"),
        ({"kind": "reset", "route": None}, "route is a NoneType; give a path"),
        ({"kind": "stall", "route": "v1/chat/completions"}, "begin with a slash"),
        ({"kind": "stall", "route": ""}, "begin with a slash"),
        ({"kind": "refused", "rate": 0.5}, "refused"),
        ({"kind": "refused", "route": "/v1/*"}, "refused"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(kwargs: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Fault(**kwargs)


def test_a_dead_upstream_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    with FaultProxy(dead) as proxy:
        status, _, _, body = fetch(proxy.url, "GET", "/status")
        assert status == 502
        assert dead in json.loads(body)["error"]["message"]
        assert fetch(proxy.url, "HEAD", "/status")[0] == 502
        assert not any(entry.client_left for entry in proxy.log)
        with client_of(proxy) as client, pytest.raises(ServerError, match=r"can't reach the service"):
            client.complete("hi")


def test_the_upstream_may_move(stub: StubService, proxy: FaultProxy) -> None:
    with StubService() as other:
        proxy.upstream = other.url
        fetch(proxy.url, "GET", "/status")
        assert (stub.count("GET", "/status"), other.count("GET", "/status")) == (0, 1)


def test_it_can_be_started_again(stub: StubService, proxy: FaultProxy) -> None:
    url = proxy.url
    proxy.close()
    assert proxy.start().url == url
    assert fetch(url, "GET", "/status")[0] == 200


def test_switching_from_several_threads_leaves_it_as_the_last_one_said(proxy: FaultProxy) -> None:
    def switch() -> None:
        for _ in range(50):
            proxy.set_faults("refused")
            proxy.clear()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(switch) for _ in range(4)]:
            done.result()
    assert fetch(proxy.url, "GET", "/status")[0] == 200


def test_a_taken_port_says_so(stub: StubService) -> None:
    with FaultProxy(stub.url) as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"Port {port}.*another port, or 0"):
            FaultProxy(stub.url, port=port).start()


def test_a_port_that_is_none_says_so(stub: StubService) -> None:
    with pytest.raises(ConfigurationError, match="Port '9911'"):
        FaultProxy(stub.url, port="9911").start()  # type: ignore[arg-type]


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="upstream='nowhere'"):
        FaultProxy("nowhere")


def test_not_running_says_what_to_do(stub: StubService) -> None:
    proxy = FaultProxy(stub.url)
    with pytest.raises(FoundryError, match="start"):
        _ = proxy.url
    proxy.close()  # harmless


def test_refused_cannot_be_scripted(proxy: FaultProxy) -> None:
    with pytest.raises(ConfigurationError, match="reset"):
        proxy.script("refused")


@pytest.mark.parametrize("fault", [Fault("reset", rate=0.5), Fault("reset", route="/v1/models")], ids=str)
def test_a_scripted_fault_has_no_rate_and_no_other_route(proxy: FaultProxy, fault: Fault) -> None:
    """Both were passed over: it met the next request to the script's own route."""
    with pytest.raises(ConfigurationError, match=r"give script\(…, route=…\)"):
        proxy.script(fault)
    proxy.script(Fault("reset", route=CHAT), None)


def test_a_route_that_is_none_is_refused_at_once(proxy: FaultProxy) -> None:
    with pytest.raises(ConfigurationError, match="route is a NoneType; give a path"):
        proxy.script("reset", route=None)
    with pytest.raises(ConfigurationError, match="begin with a slash"):
        proxy.script("reset", route=CHAT.removeprefix("/"))  # which met no request, and no error told


@pytest.mark.parametrize("ends", ["closed", "refused"])
def test_a_caller_who_comes_as_it_ends_is_not_left_waiting(stub: StubService, ends: str) -> None:
    for _ in range(40):
        with FaultProxy(stub.url) as proxy:
            there = ("127.0.0.1", urlsplit(proxy.url).port)
            callers = [socket.create_connection(there, timeout=5) for _ in range(3)]
            if ends == "refused":
                proxy.set_faults(Fault("refused"))
                assert_hung_up(callers)
        assert_hung_up(callers)


def assert_hung_up(callers: list[socket.socket]) -> None:
    while callers:
        with callers.pop() as caller, contextlib.suppress(ConnectionResetError):
            assert caller.recv(1) == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_neither_runs_it_nor_holds_its_port_or_connections(
    stub: StubService, proxy: FaultProxy
) -> None:
    """A copy of the socket would take connections that nobody answers when the parent has closed its own."""
    proxy.set_faults(Fault("black_hole", route=CHAT))
    waiting = socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0), timeout=20)
    waiting.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {urlsplit(proxy.url).netloc}\r\n\r\n".encode())
    wait_until(lambda: proxy.in_flight == 1)
    url, (told, tell) = proxy.url, os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with contextlib.suppress(FoundryError):
                _ = proxy.url
                os._exit(1)
            with proxy.start(), client_of(proxy) as client:
                proxy.clear()
                os.write(tell, client.complete("hi").content.encode())
            time.sleep(60)  # outlives the parent's proxy
        finally:
            os._exit(1)
    try:
        assert os.read(told, 100) == b"hello"
        proxy.set_faults("refused")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10)
        with contextlib.suppress(ConnectionResetError):
            assert waiting.recv(100) == b""
    finally:
        waiting.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("turns", range(4))
async def test_a_start_that_is_cancelled_leaves_nothing_running(stub: StubService, turns: int) -> None:
    """Nobody would end it: the block was never entered."""

    async def use() -> None:
        async with FaultProxy(stub.url):
            await asyncio.sleep(30)

    before = set(threading.enumerate())
    task = asyncio.create_task(use())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    assert "fault-proxy" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_several_threads_that_start_or_close_it_at_once_get_one_server(stub: StubService) -> None:
    before = working()
    proxy = FaultProxy(stub.url)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(lambda _: proxy.start(), range(8)))
            assert fetch(proxy.url, "GET", "/status")[0] == 200
            list(pool.map(lambda _: proxy.close(), range(8)))
    assert left(before) == set()


async def test_closing_leaves_no_thread_and_no_hanging_request(stub: StubService) -> None:
    before = working()
    async with FaultProxy(stub.url) as proxy, aiohttp.ClientSession() as session:
        proxy.set_faults("black_hole")
        request = asyncio.ensure_future(session.get(f"{proxy.url}/status"))
        async with asyncio.timeout(5):
            while not proxy.log:  # noqa: ASYNC110 - another thread's list can't be awaited
                await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(asyncio.to_thread(proxy.close))
        response = await asyncio.wait_for(request, 5)
        assert response.status == 503
        await closing
    assert left(before) == set()
