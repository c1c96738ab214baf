"""What the async and the sync client have in common: everything but the sending."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from foundry_lab._ground.checks import check_kind
from foundry_lab.calls.models import Directory
from foundry_lab.calls.target import Target, locate
from foundry_lab.config import Settings
from foundry_lab.errors import FoundryError
from foundry_lab.logs import LOGGER, prompt_excerpt
from foundry_lab.metrics import Metrics, Record, outcome_of
from foundry_lab.policies.breaker import CircuitBreaker
from foundry_lab.policies.cache import ResponseCache, as_cache
from foundry_lab.policies.retry import RetryPolicy
from foundry_lab.protocol.headers import request_headers

if TYPE_CHECKING:
    from foundry_lab.calls.chat import ChatRequest

LOAD_TIMEOUT_S = 300.0
"""Default limit for loading and unloading: large models are read from disk for minutes."""

_log = logging.getLogger(LOGGER)
_log.addHandler(logging.NullHandler())  # quiet in a notebook until logs.configure_logging()
_shared_metrics: Metrics | None = None


def shared_metrics() -> Metrics:
    """Return the metrics that all clients of this process count into by default."""
    global _shared_metrics
    if _shared_metrics is None:
        _shared_metrics = Metrics()
    return _shared_metrics


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "settings": ((Settings,), "a foundry_lab.Settings(…)"),
    "retry": ((RetryPolicy,), "a foundry_lab.RetryPolicy(…), or a number as retries"),
    "breaker": ((CircuitBreaker, bool), "a foundry_lab.CircuitBreaker(…), or False for none"),
    "metrics": ((Metrics, bool), "a foundry_lab.metrics.Metrics(…), or False for nowhere"),
    "cache": (
        (ResponseCache, str, os.PathLike, bool),
        "True, a path, or a ResponseCache(…)",
    ),
}


def _check_kinds(**given: object) -> None:
    for name, value in given.items():
        kinds, instead = _KINDS[name]
        if value is not None:
            check_kind(value, name, kinds, instead)


class ClientCore:
    """Settings, identity, policies and bookkeeping of one client.

    Args:
        endpoint: base URL of a service; None lets the engine find or start one.
        model: alias or id for calls that name none; it is used or refused, never replaced.
        api_key: sent as a bearer token; never shown.
        headers: sent with every request, in place of ours of the same name; never shown.
        timeout: seconds for one request with all its attempts.
        retries: attempts after the first.
        settings: what isn't given comes from here, or else from the environment.
        retry: the whole retry policy, instead of `retries`.
        breaker: a circuit breaker to share with other clients of the same endpoint, or False for none.
        metrics: where to count, or False for nowhere; by default the process's `shared_metrics()`.
        cache: keep answers of deterministic requests: True for in memory, a path for an SQLite file, or a
            `ResponseCache` to share or to set limits. Off by default.

    Raises:
        ConfigurationError: a value that can't be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        model: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | bool = True,
        metrics: Metrics | bool = True,
        cache: ResponseCache | str | os.PathLike[str] | bool | None = None,
    ) -> None:
        _check_kinds(settings=settings, retry=retry, breaker=breaker, metrics=metrics, cache=cache)
        self.settings = (settings or Settings()).replace(
            endpoint=endpoint, model=model, api_key=api_key, timeout=timeout, retries=retries
        )
        self.retry = retry or RetryPolicy(retries=self.settings.retries)
        self.breaker = CircuitBreaker() if breaker is True else breaker or None
        self.metrics = shared_metrics() if metrics is True else metrics or None
        self.cache = as_cache(cache)
        self._headers = request_headers(self.settings.api_key, headers)
        self._id_prefix = secrets.token_hex(4)
        self._id_numbers = itertools.count(1)
        self._target: Target | None = None
        self._directory = Directory(self.settings)
        self._lock = threading.Lock()
        self._found_at = 0.0  # by perf_counter: when the search for the service ended
        self._set_up()

    def _set_up(self) -> None:
        """Make what one kind of client needs besides."""

    @property
    def endpoint(self) -> str | None:
        """The service's base URL; None before the first use when the engine is to find it."""
        return self._target.endpoint if self._target else self.settings.endpoint

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint or 'not connected yet'}>"

    def _connect_to(self, target: Target) -> Target:
        """Take a target into use."""
        self._directory = Directory(self.settings, has_control=target.control_url is not None)
        self._target = target
        if self.breaker is not None and self.metrics is not None:
            self.metrics.watch_breaker(target.endpoint, self.breaker)
        return target

    def _search(self) -> Target:
        """Find or start the service, once: who comes meanwhile waits for the same search."""
        with self._lock:
            if self._target is None:
                self._connect_to(locate(self.settings))
                self._found_at = time.perf_counter()
            assert self._target is not None
            return self._target

    def _request_id(self) -> str:
        return f"{self._id_prefix}-{next(self._id_numbers):06d}"

    def _begin(self, operation: str, messages: Sequence[Mapping[str, Any]] = ()) -> Record:
        """Start the bookkeeping of an operation; `messages` are what it asks the model."""
        if self.metrics is not None:
            self.metrics.start()
        return Record(operation, self._request_id(), prompt=prompt_excerpt(messages))

    def _end(self, record: Record, started: float, error: BaseException | None) -> None:
        """Finish it: one metric sample, one log line."""
        record.latency_s = time.perf_counter() - max(started, self._found_at)  # the search isn't its doing
        record.outcome = outcome_of(error)
        if self.metrics is not None:
            self.metrics.finish(record)
        level = logging.INFO if record.outcome in ("ok", "cancelled") else logging.WARNING
        if record.operation == "health_check":
            level = logging.DEBUG  # a monitor makes one a second
        if _log.isEnabledFor(level):
            _log.log(
                level,
                "%s %s model=%s outcome=%s attempts=%d latency_s=%.3f tokens=%s%s",
                record.request_id,
                record.operation,
                record.model or "-",
                record.outcome,
                record.retries + 1,
                record.latency_s,
                f"{record.usage.prompt_tokens}+{record.usage.completion_tokens}" if record.usage else "-",
                f" prompt={record.prompt!r}" if record.prompt else "",
                extra={"record": record},
            )

    def _guard(self) -> AbstractContextManager[int | None]:
        return self.breaker.guard() if self.breaker is not None else nullcontext()

    @contextmanager
    def _observed(self, operation: str, request: ChatRequest | None = None) -> Iterator[Record]:
        record = self._begin(operation, request.messages if request is not None else ())
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            yield record
        except FoundryError as caught:
            error = caught
            _log.debug("%s failed: %s", record.request_id, type(caught).__name__)  # its text may quote texts
            # The way through operation, policies and transport tells a learner nothing.
            raise caught.with_traceback(None) from None
        except BaseException as caught:
            error = caught
            raise
        finally:
            if request is not None and not record.model:
                record.model = self._directory.meaning(request.model)
            self._end(record, started, error)
