"""Metrics of a client: Prometheus series for machines, exact percentiles for people."""

from __future__ import annotations

import math
import socket
import sys
import threading
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate
from typing import Any
from weakref import WeakSet

import msgspec
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from foundry_lab import errors
from foundry_lab._ground.checks import as_number, check_count
from foundry_lab._ground.forks import renew_after_fork
from foundry_lab._ground.loopback import refuse_foreign_wsgi
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
    (errors.ServiceUnavailableError, "unavailable"),
    (errors.RequestTimeoutError, "timeout"),
    (errors.CircuitOpenError, "circuit_open"),
    (errors.StreamInterruptedError, "interrupted"),
    (errors.ResponseFormatError, "format"),
    (Exception, "error"),
)


def outcome_of(error: BaseException | None) -> str:
    """Return the word that logs and metrics use: "ok", "http_404", "timeout", "cancelled", …

    "refused" is what the client itself refused, such as a name that the service has no model for.
    """
    if error is None:
        return "ok"
    if isinstance(error, errors.APIStatusError):
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
    """Return the q-th percentile (0-100) of real samples, linearly interpolated; None without samples.

    Raises:
        ConfigurationError: another q, or a sample that is missing.
    """
    percent = as_number(q)
    if not 0 <= percent <= 100:
        raise errors.ConfigurationError(f"q={q!r} is no percentile; give a number from 0 to 100, such as 95.")
    try:
        ordered = sorted(map(float, samples))
    except (TypeError, ValueError):
        ordered = [math.nan]
    if not all(map(math.isfinite, ordered)):  # NaN has no place in an order
        raise errors.ConfigurationError("A sample is None, NaN or no number; leave out what is missing.")
    if not ordered:
        return None
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


Labels = tuple[str, ...]
_BY_REQUEST = ("operation", "model", "outcome")


class _Histogram:
    """Values, counted by the bucket they fall into."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def sample(self) -> tuple[list[tuple[str, int]], float]:
        """Return the counts as Prometheus has them, each bucket with those below it, and the sum."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True)), self.sum


class Metrics(Collector):
    """Counts what a client does. Safe to share between clients, tasks and threads.

    A request costs one lock and a few additions; Prometheus' series are made when somebody looks. Labels are
    bounded, whatever is asked: by MAX_MODEL_LABELS, MAX_ENDPOINT_LABELS and the statuses of HTTP.

    Args:
        recent: how many of the latest samples the percentiles are taken from.

    Attributes:
        registry: the Prometheus registry; it holds nothing but this package's series.

    Raises:
        ConfigurationError: `recent` isn't a whole number from 1.
    """

    def __init__(self, recent: int = 2048) -> None:
        self._recent = check_count(recent, "recent")
        self._breakers: dict[str, WeakSet[CircuitBreaker]] = {}  # by endpoint; none is kept alive
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A child counts from zero, under locks of its own; what the parent did, the parent tells."""
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._requests = defaultdict[Labels, _Histogram](partial(_Histogram, LATENCY_BUCKETS_S))
        self._ttft = defaultdict[Labels, _Histogram](partial(_Histogram, TTFT_BUCKETS_S))
        self._queue = _Histogram(QUEUE_BUCKETS_S)
        self._prompt_tokens: Counter[str] = Counter()  # by model
        self._completion_tokens: Counter[str] = Counter()
        self._retries = self._flying = 0
        self._latencies: deque[float] = deque(maxlen=self._recent)
        self._ttfts: deque[float] = deque(maxlen=self._recent)
        self._waits: deque[float] = deque(maxlen=self._recent)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def start(self) -> None:
        """An operation begins."""
        with self._lock:
            self._flying += 1

    def finish(self, record: Record) -> None:
        """An operation that was started has ended."""
        with self._lock:
            self._flying -= 1
            self._retries += record.retries
            model = record.model
            if model not in self._models:
                # A name that was refused may be none.
                if record.outcome == "refused" or len(self._models) >= MAX_MODEL_LABELS:
                    model = "other"
                else:
                    self._models.add(model)
            key = (record.operation, model, record.outcome)
            self._requests[key].observe(record.latency_s)
            if record.operation in GENERATING and record.outcome not in REFUSED:
                self._latencies.append(record.latency_s)
            if record.ttft_s is not None:
                self._ttft[model,].observe(record.ttft_s)
                self._ttfts.append(record.ttft_s)
            if record.usage is not None:
                self._prompt_tokens[model] += record.usage.prompt_tokens
                self._completion_tokens[model] += record.usage.completion_tokens

    def waited(self, seconds: float) -> None:
        """An item of a batch has waited for a service."""
        with self._lock:
            self._queue.observe(seconds)
            self._waits.append(seconds)

    def watch_breaker(self, endpoint: str, breaker: CircuitBreaker) -> None:
        """Show this breaker's state whenever the metrics are read, for as long as somebody uses it."""
        with self._lock:
            breakers = self._breakers.pop(endpoint, WeakSet())
            breakers.add(breaker)
            used = [(name, others) for name, others in self._breakers.items() if others]
            self._breakers = {**dict(used[1 - MAX_ENDPOINT_LABELS :]), endpoint: breakers}

    def snapshot(self) -> Snapshot:
        """Return counts since the start and percentiles of the recent samples."""
        with self._lock:
            requests: Counter[str] = Counter()
            for (operation, _, outcome), latency in self._requests.items():
                if operation in GENERATING:
                    requests[outcome] += latency.count
            tokens = self._prompt_tokens.total(), self._completion_tokens.total()
            samples = [list(each) for each in (self._latencies, self._ttfts, self._waits)]
            retries, flying = self._retries, self._flying
        return Snapshot(dict(requests), retries, flying, *tokens, *map(_summary, samples))

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

    def collect(self) -> list[Metric]:
        """Return the series, for Prometheus."""
        with self._lock:
            levels = {
                (endpoint,): max((_BREAKER_LEVEL[each.state] for each in breakers), default=0)
                for endpoint, breakers in self._breakers.items()
                if breakers
            }
            tokens = {("prompt", model): number for model, number in self._prompt_tokens.items()}
            tokens |= {("completion", model): number for model, number in self._completion_tokens.items()}
            numbers = {key: latency.count for key, latency in self._requests.items()}
            latency = {key: values for key, values in self._requests.items() if key[2] not in REFUSED}
            ends, first = "From call to typed result, with retries", "From call to first streamed token"
            waits = "From a batch taking up an item to a free service"
            states = "0 closed, 1 half-open, 2 open"
            return [
                _series(CounterMetricFamily, "requests", "Finished operations", numbers, *_BY_REQUEST),
                _series(CounterMetricFamily, "tokens", "Tokens the service counted", tokens, "kind", "model"),
                _series(CounterMetricFamily, "retries", "Attempts after the first", {(): self._retries}),
                _series(HistogramMetricFamily, "request_latency_seconds", ends, latency, *_BY_REQUEST),
                _series(HistogramMetricFamily, "time_to_first_token_seconds", first, self._ttft, "model"),
                _series(HistogramMetricFamily, "queue_wait_seconds", waits, {(): self._queue}),
                _series(GaugeMetricFamily, "in_flight", "Operations under way", {(): self._flying}),
                _series(GaugeMetricFamily, "circuit_breaker_state", states, levels, "endpoint"),
            ]


def _series(family: Any, name: str, about: str, values: Mapping[Any, Any], *labels: str) -> Metric:
    series = family(f"foundry_lab_{name}", about, labels=labels)
    for key, value in values.items():
        series.add_metric(key, *value.sample() if isinstance(value, _Histogram) else (value,))
    return series


def _summary(samples: list[float]) -> Summary:
    return Summary(len(samples), percentile(samples, 50), percentile(samples, 95), percentile(samples, 99))


class MetricsServer(AbstractContextManager["MetricsServer"]):
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
        try:
            if sys.platform == "win32" and port:  # where a second server may listen at a port that is taken
                with socket.socket() as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
                    trial.bind((HOST, port))
            server, thread = start_http_server(port, addr=HOST, registry=registry)
        except (OSError, OverflowError, TypeError) as error:
            raise errors.ConfigurationError(
                f"The metrics can't be served on port {port!r} of {HOST} ({error}). Give another port, a "
                "number up to 65535, or 0 for a free one."
            ) from None
        server.set_app(refuse_foreign_wsgi(make_wsgi_app(registry)))
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}{'' if self._thread.is_alive() else ', closed'}>"
