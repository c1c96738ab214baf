"""The fault proxy: what it lets through is untouched, what it spoils is spoiled as asked."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
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

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
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


def client_of(proxy: FaultProxy, **kwargs: object) -> SyncFoundryAPIClient:
    return SyncFoundryAPIClient(proxy.url, **{"timeout": 30.0, "retries": 0, "metrics": False, **kwargs})


def fetch(
    url: str, method: str, path: str, body: bytes = b""
) -> tuple[int, str, list[tuple[str, str]], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request(method, path, body=body or None, headers={"X-Odd": "a  b", "Accept-Encoding": "gzip"})
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


def test_headers_that_the_service_leaves_out_are_not_made_up() -> None:
    """Foundry Local's 404 has no content type; aiohttp would add one, and a date."""
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nConnection: close\r\n\r\nserver=oatpp"
    with RawServer(sends(answer)) as server, FaultProxy(server.url) as proxy:
        status, reason, headers, body = fetch(proxy.url, "POST", CHAT, b"{}")
    assert (status, reason, body) == (404, "Not Found", b"server=oatpp")
    assert not {"content-type", "date", "server"} & {name.lower() for name, _ in headers}


def test_a_doubled_header_stays_doubled() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Type: text/event-stream\r\n"
    with (
        RawServer(sends(head + b"Connection: close\r\n\r\n" + DONE)) as server,
        FaultProxy(server.url) as proxy,
    ):
        _, _, headers, body = fetch(proxy.url, "POST", CHAT, b"{}")
    assert [value for name, value in headers if name == "Content-Type"] == ["text/event-stream"] * 2
    assert body == DONE


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


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"kind": "gremlin"}, "gremlin"),
        ({"kind": "reset", "rate": 0}, "rate"),
        ({"kind": "reset", "rate": float("nan")}, "rate"),
        ({"kind": "latency", "delay_s": -1}, "delay_s"),
        ({"kind": "latency", "delay_s": float("inf")}, "delay_s"),
        ({"kind": "status", "status": 200}, "200"),
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


async def test_closing_leaves_no_thread_and_no_hanging_request(stub: StubService) -> None:
    before = set(threading.enumerate())
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
    begun = {thread.name for thread in set(threading.enumerate()) - before}
    assert all(name.startswith("asyncio_") for name in begun)  # asyncio.to_thread keeps its worker
