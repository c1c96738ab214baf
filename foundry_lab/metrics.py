"""Metrics of a client: Prometheus series for machines, exact percentiles for people."""

from __future__ import annotations

import socket
import sys
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from types import TracebackType
from weakref import WeakSet
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
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
REFUSED = ("circuit_open", "refused")
"""Outcomes of what no model was asked: counted, but no samples of latency."""
MAX_MODEL_LABELS = 32
"""Distinct models counted by name; later ones count as "other", so that labels stay bounded."""
MAX_ENDPOINT_LABELS = 32
"""Endpoints whose breakers are shown; those that were connected to longest ago make way."""
_BREAKER_LEVEL = {"closed": 0, "half-open": 1, "open": 2}
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
    """Return the word that logs and metrics use: "ok", "http_404", "timeout", "cancelled", …

    "refused" is what the client itself refused, such as a name that the service has no model for.
    """
    if error is None:
        return "ok"
    if isinstance(error, APIStatusError):
        return f"http_{error.status}" if error.by_service else "refused"
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
    which are fast and many, would blur them, and so would what was refused without asking a model.
    `queue_wait` is of the items of batches.
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


class _Histogram:
    """Values, counted by the bucket they fall into."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add to the family as Prometheus counts: each bucket holds those below it, too."""
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)


class Metrics(Collector):
    """Counts what a client does. Safe to share between clients, tasks and threads.

    A request costs one lock and a few additions; Prometheus' series are made when somebody looks.

    Args:
        recent: how many of the latest samples the percentiles are taken from.

    Attributes:
        registry: the Prometheus registry; it holds nothing but this package's series.
    """

    def __init__(self, recent: int = 2048) -> None:
        self._recent = recent
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child counts from zero, under locks of its own; what the parent did, the parent tells."""
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._requests: Counter[tuple[str, str, str]] = Counter()  # by operation, model and outcome
        self._latency: dict[tuple[str, str, str], _Histogram] = {}
        self._ttft: dict[str, _Histogram] = {}  # by model
        self._queue = _Histogram(QUEUE_BUCKETS_S)
        self._tokens: Counter[tuple[str, str]] = Counter()  # by kind and model
        self._retries = self._flying = 0
        self._latencies: deque[float] = deque(maxlen=self._recent)
        self._ttfts: deque[float] = deque(maxlen=self._recent)
        self._waits: deque[float] = deque(maxlen=self._recent)
        self._breakers = _Breakers()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.registry.register(self._breakers)

    def start(self) -> None:
        """An operation begins."""
        with self._lock:
            self._flying += 1

    def finish(self, record: Record) -> None:
        """An operation that was started has ended."""
        with self._lock:
            self._flying -= 1
            self._retries += record.retries
            model = record.model if record.model in self._models else self._label(record)
            key = (record.operation, model, record.outcome)
            self._requests[key] += 1
            if record.outcome not in REFUSED:
                self._observe_latency(key, record.latency_s)
            if record.ttft_s is not None:
                self._ttfts.append(record.ttft_s)
                self._ttft.setdefault(model, _Histogram(TTFT_BUCKETS_S)).observe(record.ttft_s)
            if record.usage is not None:
                self._tokens["prompt", model] += record.usage.prompt_tokens
                self._tokens["completion", model] += record.usage.completion_tokens

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
            counts: Counter[str] = Counter()
            for (operation, _, outcome), number in self._requests.items():
                if operation in GENERATING:
                    counts[outcome] += number
            tokens: Counter[str] = Counter()
            for (kind, _), number in self._tokens.items():
                tokens[kind] += number
            samples = [list(each) for each in (self._latencies, self._ttfts, self._waits)]
            retries, flying = self._retries, self._flying
        latency, ttft, queue_wait = map(_summary, samples)
        return Snapshot(
            dict(counts), retries, flying, tokens["prompt"], tokens["completion"], latency, ttft, queue_wait
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

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Return the series, for Prometheus."""
        by_request = ["operation", "model", "outcome"]
        requests = CounterMetricFamily("foundry_lab_requests", "Finished operations", labels=by_request)
        latency = HistogramMetricFamily(
            "foundry_lab_request_latency_seconds",
            "From the call to the typed result, retries included",
            labels=by_request,
        )
        ttft = HistogramMetricFamily(
            "foundry_lab_time_to_first_token_seconds",
            "From the call to the first streamed token",
            labels=["model"],
        )
        queue = HistogramMetricFamily(
            "foundry_lab_queue_wait_seconds",
            "From a batch taking up an item to a service being free for it",
            labels=[],
        )
        tokens = CounterMetricFamily(
            "foundry_lab_tokens", "Tokens the service counted", labels=["kind", "model"]
        )
        with self._lock:
            for key, number in self._requests.items():
                requests.add_metric(key, number)
            for key, histogram in self._latency.items():
                histogram.add_to(latency, key)
            for model, histogram in self._ttft.items():
                histogram.add_to(ttft, [model])
            self._queue.add_to(queue, [])
            for kind_and_model, number in self._tokens.items():
                tokens.add_metric(kind_and_model, number)
            retries = CounterMetricFamily("foundry_lab_retries", "Attempts after the first", self._retries)
            flying = GaugeMetricFamily("foundry_lab_in_flight", "Operations under way", self._flying)
        yield from (requests, latency, ttft, queue, tokens, retries, flying)

    def _label(self, record: Record) -> str:
        """Return the label of a model not counted so far; a name that was refused may be none."""
        if record.outcome == "refused" or len(self._models) >= MAX_MODEL_LABELS:
            return "other"
        self._models.add(record.model)
        return record.model

    def _observe_latency(self, key: tuple[str, str, str], seconds: float) -> None:
        if key[0] in GENERATING:
            self._latencies.append(seconds)
        if (histogram := self._latency.get(key)) is None:
            histogram = self._latency[key] = _Histogram(LATENCY_BUCKETS_S)
        histogram.observe(seconds)


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
