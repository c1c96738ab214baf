"""Metrics of a client: Prometheus series for machines, exact percentiles for people."""

from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from weakref import WeakSet
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from foundry_lab._ground.forks import renew_after_fork
from foundry_lab.errors import (
    APIStatusError,
    CircuitOpenError,
    ConfigurationError,
    FoundryError,
    RequestTimeoutError,
    ResponseFormatError,
    ServiceUnavailableError,
    StreamInterruptedError,
)
from foundry_lab.policies.breaker import CircuitBreaker
from foundry_lab.types import Usage

HOST = "127.0.0.1"
LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
QUEUE_BUCKETS_S = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0)
TTFT_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
GENERATING = ("complete", "stream")
_BREAKER_LEVEL = {"closed": 0, "half-open": 1, "open": 2}
MAX_MODEL_LABELS = 32
"""Distinct models counted by name; later ones count as "other", so that labels stay bounded."""
MAX_ENDPOINT_LABELS = 32
"""Endpoints whose breakers are shown; those that were connected to longest ago make way."""

_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (ServiceUnavailableError, "unavailable"),
    (RequestTimeoutError, "timeout"),
    (CircuitOpenError, "circuit_open"),
    (StreamInterruptedError, "interrupted"),
    (ResponseFormatError, "format"),
    (FoundryError, "error"),
    (Exception, "error"),
)


def outcome_of(error: BaseException | None) -> str:
    """Return the word that logs and metrics use: "ok", "http_404", "timeout", "cancelled", …"""
    if error is None:
        return "ok"
    if isinstance(error, APIStatusError):
        return f"http_{error.status}"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "cancelled")


class Record(msgspec.Struct):
    """What is known of one operation when it ends. Times in seconds, None where it didn't come to that.

    `prompt` is the beginning of the prompt if `logs.configure_logging` was told to log it, else empty.
    """

    operation: str
    request_id: str
    model: str = ""
    outcome: str = ""
    retries: int = 0
    latency_s: float = 0.0
    ttft_s: float | None = None
    usage: Usage | None = None
    prompt: str = ""


class Summary(msgspec.Struct, frozen=True):
    """Percentiles of the most recent samples, in seconds; None without samples."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics at one moment, for a notebook.

    `requests` (by outcome) and `latency` are of completions and streams; health checks and lists of models,
    which are fast and many, would blur them. `queue_wait` is of the items of batches.
    """

    requests: dict[str, int]
    retries: int
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    latency: Summary
    ttft: Summary
    queue_wait: Summary


def percentile(samples: Sequence[float], q: float) -> float | None:
    """Return the q-th percentile (0-100) of real samples, linearly interpolated; None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    position = (len(ordered) - 1) * q / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


class Metrics:
    """Counts what a client does. Safe to share between clients, tasks and threads.

    Args:
        recent: how many of the latest samples the percentiles are taken from.

    Attributes:
        registry: the Prometheus registry; it holds nothing but this package's series.
    """

    def __init__(self, recent: int = 2048) -> None:
        self._recent = recent
        self._begin()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child counts from zero, under locks of its own; what the parent did, the parent tells."""
        self._begin()

    def _begin(self) -> None:
        recent = self._recent
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "foundry_lab_requests_total",
            "Finished operations",
            ["operation", "model", "outcome"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "foundry_lab_request_latency_seconds",
            "From the call to the typed result, retries included",
            ["operation"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._ttft = Histogram(
            "foundry_lab_time_to_first_token_seconds",
            "From the call to the first streamed token",
            buckets=TTFT_BUCKETS_S,
            registry=self.registry,
        )
        self._queue = Histogram(
            "foundry_lab_queue_wait_seconds",
            "From a batch taking up an item to a service being free for it",
            buckets=QUEUE_BUCKETS_S,
            registry=self.registry,
        )
        self._tokens = Counter(
            "foundry_lab_tokens_total", "Tokens the service counted", ["kind"], registry=self.registry
        )
        self._retries = Counter(
            "foundry_lab_retries_total", "Attempts after the first", registry=self.registry
        )
        in_flight = Gauge("foundry_lab_in_flight", "Operations under way", registry=self.registry)
        in_flight.set_function(lambda: self._flying)
        self._breakers = _Breakers()
        self.registry.register(self._breakers)
        self._prompt_tokens = self._tokens.labels("prompt")
        self._completion_tokens = self._tokens.labels("completion")
        self._lock = threading.Lock()
        self._children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._models: set[str] = set()
        self._counts: dict[str, int] = {}
        self._totals = [0, 0, 0]  # retries, prompt tokens, completion tokens
        self._flying = 0
        self._latencies: deque[float] = deque(maxlen=recent)
        self._ttfts: deque[float] = deque(maxlen=recent)
        self._waits: deque[float] = deque(maxlen=recent)

    def start(self) -> None:
        """An operation begins."""
        with self._lock:
            self._flying += 1

    def finish(self, record: Record) -> None:
        """An operation that was started has ended."""
        usage = record.usage
        retries = record.retries
        with self._lock:
            self._flying -= 1
            requests, latency = self._series(record)
            if record.operation in GENERATING:
                self._counts[record.outcome] = self._counts.get(record.outcome, 0) + 1
                self._latencies.append(record.latency_s)
            if record.ttft_s is not None:
                self._ttfts.append(record.ttft_s)
            self._totals[0] += retries
            if usage is not None:
                self._totals[1] += usage.prompt_tokens
                self._totals[2] += usage.completion_tokens
        requests.inc()
        latency.observe(record.latency_s)
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s)
        if retries:
            self._retries.inc(retries)
        if usage is not None:
            self._prompt_tokens.inc(usage.prompt_tokens)
            self._completion_tokens.inc(usage.completion_tokens)

    def waited(self, seconds: float) -> None:
        """An item of a batch has waited for a service."""
        with self._lock:
            self._waits.append(seconds)
        self._queue.observe(seconds)

    def watch_breaker(self, endpoint: str, breaker: CircuitBreaker) -> None:
        """Show this breaker's state whenever the metrics are read, for as long as somebody uses it."""
        self._breakers.add(endpoint, breaker)

    def snapshot(self) -> Snapshot:
        """Return counts since the start and percentiles of the recent samples."""
        with self._lock:
            latencies, ttfts, waits = list(self._latencies), list(self._ttfts), list(self._waits)
            retries, prompt_tokens, completion_tokens = self._totals
            counts, flying = dict(self._counts), self._flying
        return Snapshot(
            counts,
            retries,
            flying,
            prompt_tokens,
            completion_tokens,
            _summary(latencies),
            _summary(ttfts),
            _summary(waits),
        )

    def text(self) -> str:
        """Return the series in Prometheus' text format."""
        return generate_latest(self.registry).decode("utf-8")

    def serve(self, port: int = 0) -> MetricsServer:
        """Serve that text at `/metrics` on this machine; the result has `.url` and `.close()`.

        Args:
            port: on 127.0.0.1; 0 takes a free one.

        Raises:
            ConfigurationError: the port is taken.
        """
        return MetricsServer(self.registry, port)

    def _series(self, record: Record) -> tuple[Counter, Histogram]:
        """Return the labelled series, looked up once: `labels()` costs more than counting."""
        key = (record.operation, record.model, record.outcome)
        if (series := self._children.get(key)) is None:
            model = record.model
            if model not in self._models:
                if len(self._models) < MAX_MODEL_LABELS:
                    self._models.add(model)
                else:
                    key = (record.operation, model := "other", record.outcome)
            series = (
                self._requests.labels(record.operation, model, record.outcome),
                self._latency.labels(record.operation),
            )
            self._children[key] = series
        return series


class _Breakers(Collector):
    """State of the breakers by endpoint, the worst of those in use. It keeps none of them alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, WeakSet[CircuitBreaker]] = {}

    def add(self, endpoint: str, breaker: CircuitBreaker) -> None:
        with self._lock:
            breakers = self._watched.pop(endpoint, WeakSet())
            breakers.add(breaker)
            used = {name: others for name, others in self._watched.items() if others}
            latest = list(used.items())[1 - MAX_ENDPOINT_LABELS :]
            self._watched = {**dict(latest), endpoint: breakers}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "foundry_lab_circuit_breaker_state", "0 closed, 1 half-open, 2 open", labels=["endpoint"]
        )
        with self._lock:
            for endpoint, breakers in self._watched.items():
                if levels := [_BREAKER_LEVEL[breaker.state] for breaker in breakers]:
                    family.add_metric([endpoint], max(levels))
        yield family


def _summary(samples: list[float]) -> Summary:
    return Summary(len(samples), percentile(samples, 50), percentile(samples, 95), percentile(samples, 99))


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
        renew_after_fork(self)
        self.url = f"http://{HOST}:{server.server_port}/metrics"

    def after_fork(self) -> None:
        """The parent serves; a child that kept the socket would keep the port when the parent has ended."""
        self._server.socket.close()

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
