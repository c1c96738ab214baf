"""Metrics: what is counted, and under which labels; the endpoint on loopback, clear about a taken port."""

from __future__ import annotations

import gc
import socket
import threading
import urllib.error
import urllib.request
import weakref
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from clients import Client, both_clients
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from stub_server import CHAT, MODEL, StubService, error

from foundry_lab import CircuitBreaker
from foundry_lab.errors import (
    BadRequestError,
    CircuitOpenError,
    ConfigurationError,
    ModelNotFoundError,
    ServerError,
)
from foundry_lab.metrics import (
    LATENCY_BUCKETS_S,
    MAX_ENDPOINT_LABELS,
    MAX_MODEL_LABELS,
    Metrics,
    Record,
    percentile,
)
from foundry_lab.types import Usage


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
    assert samples["foundry_lab_retries_total", None, None] == 0
    assert samples["foundry_lab_in_flight", None, None] == 0


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


def samples_of(metrics: Metrics, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each sample of this name, as Prometheus would read them."""
    return [
        (dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if sample.name == name
    ]


def finish(metrics: Metrics, **facts: Any) -> None:
    metrics.start()
    metrics.finish(Record(**{"operation": "complete", "request_id": "x", "outcome": "ok", **facts}))


def test_tokens_and_times_carry_the_model_and_latency_the_outcome() -> None:
    """An alarm needs to know which model is slow, and that fast failures don't make it look fast."""
    metrics = Metrics()
    usage = Usage(prompt_tokens=5, completion_tokens=3, total_tokens=8)
    finish(metrics, operation="stream", model="a", latency_s=0.3, ttft_s=0.2, usage=usage)
    finish(metrics, operation="stream", model="b", latency_s=0.3, outcome="http_500")
    tokens = samples_of(metrics, "foundry_lab_tokens_total")
    assert tokens == [({"kind": "prompt", "model": "a"}, 5), ({"kind": "completion", "model": "a"}, 3)]
    assert samples_of(metrics, "foundry_lab_time_to_first_token_seconds_sum") == [({"model": "a"}, 0.2)]
    latency = samples_of(metrics, "foundry_lab_request_latency_seconds_count")
    assert {(labels["model"], labels["outcome"]): value for labels, value in latency} == {
        ("a", "ok"): 1,
        ("b", "http_500"): 1,
    }


@given(st.lists(st.floats(0, 200), max_size=30))
def test_buckets_are_as_prometheus_counts_them(values: list[float]) -> None:
    """The library's own histogram is the judge."""
    metrics, registry = Metrics(), CollectorRegistry()
    judge = Histogram("judge", "", buckets=LATENCY_BUCKETS_S, registry=registry)
    for value in values:
        finish(metrics, latency_s=value)
        judge.observe(value)
    expected = {
        float(each.labels["le"]): each.value
        for family in registry.collect()
        for each in family.samples
        if each.name == "judge_bucket"
    }
    found = samples_of(metrics, "foundry_lab_request_latency_seconds_bucket")
    assert {float(labels["le"]): value for labels, value in found} == (expected if values else {})


@both_clients
def test_what_was_refused_without_asking_a_model_is_no_sample_of_latency(kind: str) -> None:
    """It takes microseconds, and a thousand of it would make a service that is down look fast."""
    metrics, breaker = Metrics(), CircuitBreaker()
    with StubService() as stub, Client(kind, stub.url, metrics=metrics, breaker=breaker) as client:
        client.complete("hi")
        breaker.hold_open()
        for _ in range(3):
            with pytest.raises(CircuitOpenError):
                client.complete("hi")
        breaker.close()
        with pytest.raises(ModelNotFoundError):
            client.complete("hi", model="nobody's")
    snapshot = metrics.snapshot()
    assert snapshot.requests == {"ok": 1, "circuit_open": 3, "refused": 1}
    assert snapshot.latency.count == 1
    latency = samples_of(metrics, "foundry_lab_request_latency_seconds_count")
    assert [labels["outcome"] for labels, _ in latency] == ["ok"]


@both_clients
def test_the_services_own_404_is_told_as_one(kind: str) -> None:
    metrics = Metrics()
    with StubService() as stub, Client(kind, stub.url, retries=0, metrics=metrics) as client:
        stub.on("POST", CHAT, error(404, "gone"))
        with pytest.raises(BadRequestError):
            client.complete("hi", model=MODEL)
    assert metrics.snapshot().requests == {"http_404": 1}


def test_models_are_bounded_in_every_series() -> None:
    metrics = Metrics()
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    for number in range(2 * MAX_MODEL_LABELS):
        finish(metrics, model=f"m{number}", ttft_s=0.1, usage=usage)
    for name in ("requests_total", "tokens_total", "request_latency_seconds_sum"):
        models = {labels["model"] for labels, _ in samples_of(metrics, f"foundry_lab_{name}")}
        assert len(models) == MAX_MODEL_LABELS + 1 and "other" in models, name
    models = {
        labels["model"] for labels, _ in samples_of(metrics, "foundry_lab_time_to_first_token_seconds_sum")
    }
    assert len(models) == MAX_MODEL_LABELS + 1


def test_names_that_are_no_model_do_not_use_up_the_labels() -> None:
    metrics = Metrics()
    for number in range(2 * MAX_MODEL_LABELS):
        finish(metrics, model=f"typing error {number}", outcome="refused")
    finish(metrics, model="real")
    counted = samples_of(metrics, "foundry_lab_requests_total")
    assert {labels["model"] for labels, _ in counted} == {"other", "real"}


def test_nothing_is_lost_between_threads() -> None:
    metrics = Metrics()
    usage = Usage(prompt_tokens=2, completion_tokens=1, total_tokens=3)

    def work() -> None:
        for _ in range(500):
            finish(metrics, model="m", retries=1, usage=usage)
            metrics.text()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = metrics.snapshot()
    assert (snapshot.requests, snapshot.retries, snapshot.in_flight) == ({"ok": 2000}, 2000, 0)
    assert (snapshot.prompt_tokens, snapshot.completion_tokens) == (4000, 2000)


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
    broken.acquire().settle(ServerError("x", status=500))
    for breaker in (broken, well):
        metrics.watch_breaker("http://one", breaker)
    assert breaker_levels(metrics) == {"http://one": 2}


def test_the_gauge_tells_half_open_when_the_time_has_come_without_a_call() -> None:
    metrics, now = Metrics(), [1000.0]
    breaker = CircuitBreaker(failure_threshold=1, open_s=5, clock=lambda: now[0])
    metrics.watch_breaker("http://one", breaker)
    breaker.acquire().settle(ServerError("x", status=500))
    assert breaker_levels(metrics) == {"http://one": 2}
    now[0] += 5
    assert breaker_levels(metrics) == {"http://one": 1}
    breaker.hold_open()
    now[0] += 5
    assert breaker_levels(metrics) == {"http://one": 2}, "what is held stays so"


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


@pytest.mark.parametrize("recent", [0, -1, 2.5, "many"])
def test_a_number_of_samples_that_is_none_is_refused(recent: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"recent=.*whole number from 1"):
        Metrics(recent)


@pytest.mark.parametrize("q", [-1, 100.5, float("nan"), "95%"])
@pytest.mark.parametrize("samples", [[], [1.0, 2.0]])
def test_a_percentile_that_is_none_is_refused(samples: list[float], q: Any) -> None:
    with pytest.raises(ConfigurationError, match="0 to 100"):
        percentile(samples, q)
    assert percentile([1.0, 2.0], 100) == 2.0


def test_a_percentile_is_taken_of_an_array_too() -> None:
    """A stream's `inter_token_s` is one; numpy's "the truth value is ambiguous" came."""
    assert percentile(np.array([4.0, 1.0, 3.0, 2.0]), 50) == 2.5  # type: ignore[arg-type]
    assert percentile(np.array([]), 50) is None  # type: ignore[arg-type]
    assert percentile([1.0, 2.0, 3.0], "50") == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [float("nan"), None, "late", float("inf")])
def test_a_sample_that_is_missing_is_told(missing: Any) -> None:
    """NaN has no place in an order: the median of 3, NaN, 1 and 2 was NaN, that of others a wrong number."""
    with pytest.raises(ConfigurationError, match="leave out what is missing"):
        percentile([3.0, missing, 1.0, 2.0], 50)
