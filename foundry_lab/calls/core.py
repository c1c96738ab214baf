"""What both clients are made of: settings, policies and a caller. Their methods are in the package's root."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, TypeVar

from foundry_lab._ground.checks import check_kind
from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.config import Settings
from foundry_lab.errors import ConfigurationError
from foundry_lab.metrics import Metrics
from foundry_lab.policies.breaker import CircuitBreaker
from foundry_lab.policies.cache import ResponseCache
from foundry_lab.policies.retry import RetryPolicy
from foundry_lab.protocol.headers import request_headers

Client = TypeVar("Client", bound="ClientCore")
LOAD_TIMEOUT_S = 300.0
"""Default limit for loading and unloading: large models are read from disk for minutes."""


@functools.cache
def shared_metrics() -> Metrics:
    """Return the metrics that all clients of this process count into by default."""
    return Metrics()


class ClientCore:
    """Settings and policies of one client.

    Args:
        endpoint: base URL of a service; None lets the engine find or start one.
        model: alias or id for calls that name none; it is used or refused, never replaced.
        api_key: sent as a bearer token to the endpoint that you name, never to a service that was found.
        headers: sent with every request, in place of ours of the same name; never shown.
        timeout: seconds for one request with all its attempts.
        retries: attempts after the first.
        settings: what isn't given comes from here, or else from the environment.
        retry: the whole retry policy, instead of `retries`.
        breaker: a circuit breaker to share with other clients of the same endpoint, or False for none.
        metrics: where to count, or False for nowhere; by default the process's `shared_metrics()`.
        cache: keep answers of deterministic requests: True for in memory, a path for an SQLite file, or a
            `ResponseCache` to share or to set limits. Off by default.
        ca_file: for https, a PEM file of authorities to trust instead of SSL_CERT_FILE's or the system's.

    Attributes:
        caller: sends what the methods ask for; for the package's own rooms.

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
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        off = (bool, NoneType)
        check_kind(settings, "settings", (Settings, NoneType), "a foundry_lab.Settings(…)")
        check_kind(retry, "retry", (RetryPolicy, NoneType), "a foundry_lab.RetryPolicy(…), or retries=…")
        if retry is not None and retries is not None:
            raise ConfigurationError(
                "Give retries or retry, not both: retry=RetryPolicy(retries=…) has the number."
            )
        check_kind(breaker, "breaker", (CircuitBreaker, *off), "a foundry_lab.CircuitBreaker(…), or False")
        check_kind(metrics, "metrics", (Metrics, *off), "a foundry_lab.metrics.Metrics(…), or False")
        check_kind(cache, "cache", (ResponseCache, str, os.PathLike, *off), "True, a path or a ResponseCache")
        self.settings = (settings or Settings()).replace(
            endpoint=endpoint, model=model, api_key=api_key, timeout=timeout, retries=retries
        )
        self.retry = retry or RetryPolicy(retries=self.settings.retries)
        self.breaker = CircuitBreaker() if breaker is True else breaker or None
        self.metrics = shared_metrics() if metrics is True else metrics or None
        if isinstance(cache, (str, os.PathLike)):
            cache = ResponseCache(cache)
        self.cache = ResponseCache() if cache is True else cache or None
        sent = request_headers(self.settings.api_key, headers)
        self.caller = AsyncCaller(
            self.settings, sent, self.retry, self.breaker, self.metrics, self.cache, ca_file
        )

    @property
    def endpoint(self) -> str | None:
        """The service's base URL; None before the first use when the engine is to find it."""
        target = self.caller.target
        return target.endpoint if target is not None else self.settings.endpoint

    def twin(self, kind: type[Client], endpoint: str | None = None, **changes: Any) -> Client:
        """Return a client made as this one is, but for the changes; for the package's rooms.

        Args:
            kind: its class; ours, as a subclass may have arguments of its own.
            endpoint: of the other; this one's, or its search, if not given.
            changes: arguments of the class.
        """
        # Settings and policies, and not the endpoint: a service that was found may move.
        same = {part.name: getattr(self.caller, part.name) for part in fields(self.caller)}
        return kind(endpoint, **{**same, **changes})

    def __reduce__(self) -> str:
        raise TypeError(
            "A client can't be copied or pickled: it has connections, and maybe a key. "
            "Make one where it is used; its .settings can be pickled, without the key."
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint or 'not connected yet'}>"
