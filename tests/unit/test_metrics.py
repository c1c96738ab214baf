"""The metrics endpoint: what Prometheus would fetch, on loopback only, and clear about a taken port."""

from __future__ import annotations

import gc
import socket
import urllib.error
import urllib.request
import weakref
from urllib.parse import urlsplit

import pytest
from clients import Client
from prometheus_client.parser import text_string_to_metric_families
from stub_server import MODEL, StubService

from foundry_lab import CircuitBreaker
from foundry_lab.errors import ConfigurationError
from foundry_lab.metrics import MAX_ENDPOINT_LABELS, Metrics


def fetch(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        return str(answer.read().decode())


def test_serves_what_the_client_counted() -> None:
    metrics = Metrics()
    with (
        StubService() as stub,
        Client("sync", stub.url, metrics=metrics) as client,
        metrics.serve() as server,
    ):
        client.complete("hi")
        client.stream_text()
        text = fetch(server.url)
    samples = {
        (sample.name, sample.labels.get("operation"), sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") in (None, MODEL)
    }
    assert samples["foundry_lab_requests_total", "complete", "ok"] == 1
    assert samples["foundry_lab_requests_total", "stream", "ok"] == 1
    assert samples["foundry_lab_time_to_first_token_seconds_count", None, None] == 1


def test_listens_on_loopback_and_ends_with_its_block() -> None:
    with Metrics().serve() as server:
        assert urlsplit(server.url).hostname == "127.0.0.1"
        assert "foundry_lab_in_flight" in fetch(server.url)
    with pytest.raises(urllib.error.URLError):
        fetch(server.url)
    server.close()  # harmless


def test_a_taken_port_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}.*another port, .* or 0"):
            Metrics().serve(port)


@pytest.mark.parametrize("port", [70000, "9911", None])
def test_a_port_that_is_none_says_so(port: object) -> None:
    with pytest.raises(ConfigurationError, match=f"port {port!r} .* up to 65535"):
        Metrics().serve(port)


def breaker_levels(metrics: Metrics) -> dict[str, float]:
    """The state shown of each endpoint."""
    return {
        sample.labels["endpoint"]: sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if sample.name == "foundry_lab_circuit_breaker_state"
    }


def test_of_two_breakers_of_an_endpoint_the_worse_is_shown() -> None:
    metrics, broken, well = Metrics(), CircuitBreaker(failure_threshold=1), CircuitBreaker()
    broken.failure(broken.acquire())
    for breaker in (broken, well):
        metrics.watch_breaker("http://one", breaker)
    assert breaker_levels(metrics) == {"http://one": 2}


def test_breakers_are_watched_and_not_kept() -> None:
    metrics, breaker = Metrics(), CircuitBreaker()
    metrics.watch_breaker("http://one", breaker)
    gone = weakref.ref(breaker)
    del breaker
    gc.collect()
    assert gone() is None
    assert breaker_levels(metrics) == {}


def test_endpoints_are_bounded_and_the_latest_are_shown() -> None:
    metrics, breaker = Metrics(), CircuitBreaker()
    for number in range(2 * MAX_ENDPOINT_LABELS):
        metrics.watch_breaker(f"http://{number}", breaker)
    levels = breaker_levels(metrics)
    assert len(levels) == MAX_ENDPOINT_LABELS
    assert f"http://{2 * MAX_ENDPOINT_LABELS - 1}" in levels


def test_health_checks_do_not_blur_the_latency_of_answers() -> None:
    metrics = Metrics()
    with StubService() as stub, Client("sync", stub.url, metrics=metrics) as client:
        for _ in range(3):
            client.health_check()
        client.complete("hi")
    snapshot = metrics.snapshot()
    assert (snapshot.requests, snapshot.latency.count) == ({"ok": 1}, 1)
    assert 'operation="health_check"' in metrics.text()
