"""Deadline and retry policy: how long a request may take, and when it is sent again."""

import random
import time

import msgspec
from msgspec.structs import force_setattr

from foundry_lab._ground.checks import check_retries, check_seconds
from foundry_lab.config import DEFAULT_RETRIES
from foundry_lab.errors import (
    APIStatusError,
    ModelBusyError,
    RequestTimeoutError,
    ServiceUnavailableError,
    StreamInterruptedError,
)

RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Deadline:
    """One time budget, in seconds, over all attempts of a request and the waiting between them."""

    __slots__ = ("at", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.at = time.monotonic() + limit_s

    def remaining(self) -> float:
        """Return the seconds left; never negative."""
        return max(0.0, self.at - time.monotonic())

    def error(self, *, generating: bool = True) -> RequestTimeoutError:
        """Return the error that says this budget is spent; `generating` if a model was to write an answer."""
        if generating:
            said = (
                "; the service may go on with it for a while. Ask for fewer max_tokens, or allow more time: "
            )
        else:
            said = ". The service may be busy, or hang: `foundry-lab status` shows it. Or allow more time: "
        return RequestTimeoutError(
            f"No whole answer within {self.limit_s:g} s{said}timeout=… on the call, or FOUNDRY_TIMEOUT.",
            phase="total",
            limit_s=self.limit_s,
        )


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to send a request again, and how long to wait before.

    Waits grow exponentially with full jitter: before retry n a random time between 0 and
    `backoff_initial_s * 2**(n-1)`, at most `backoff_max_s`. Full jitter spreads clients that failed together
    best (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Attributes:
        retries: attempts after the first.
        retry_after_max_s: the longest `Retry-After` that is obeyed; a longer one ends the attempts.
        retry_timeouts: also repeat a generation that ran into a time limit. Off, because the service may
            still be working on the first one.

    Raises:
        ConfigurationError: a time that isn't a number from 0, or retries that aren't a whole number.
    """

    retries: int = DEFAULT_RETRIES
    backoff_initial_s: float = 0.2
    backoff_max_s: float = 8.0
    retry_after_max_s: float = 30.0
    retry_timeouts: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "retries", check_retries(self.retries))
        for name in ("backoff_initial_s", "backoff_max_s", "retry_after_max_s"):
            force_setattr(self, name, check_seconds(getattr(self, name), name))

    def is_retryable(self, error: Exception) -> bool:
        """Return whether sending the same request again is safe and may help.

        A connection that broke before the caller got anything is: it breaks when the service goes. Streams
        are sent again up to their first text only; the clients see to that. A generation that ran into a time
        limit isn't: foundry-local-sdk 2.2.1 computes a plain answer to its end though nobody waits for it any
        more, and the next request would have to share the device with it.
        """
        if isinstance(error, APIStatusError):
            lasts = error.lasting or isinstance(error, ModelBusyError)
            return error.status in RETRY_STATUSES and not lasts
        if isinstance(error, RequestTimeoutError):
            return is_connect_timeout(error) or (self.retry_timeouts and error.phase != "total")
        return isinstance(error, (ServiceUnavailableError, StreamInterruptedError))

    def wait_s(self, error: Exception, retry: int) -> float | None:
        """Return the seconds to wait before retry number `retry` (from 1), or None to give up."""
        if not self.is_retryable(error):
            return None
        asked = error.retry_after if isinstance(error, APIStatusError) else None
        if asked is not None and asked > 0:  # "0" would have all clients come back at once
            return asked if asked <= self.retry_after_max_s else None
        ceiling = min(self.backoff_max_s, self.backoff_initial_s * 2 ** min(retry - 1, 60))
        return random.uniform(0.0, ceiling)

    def pause_s(self, error: BaseException, retry: int, deadline: Deadline) -> float | None:
        """Return the seconds to wait before retry number `retry` (from 1), or None to give up."""
        if retry > self.retries or not isinstance(error, Exception):  # a cancelled call isn't repeated
            return None
        wait = self.wait_s(error, retry)
        return None if wait is None or wait >= deadline.remaining() else wait


def is_connect_timeout(error: BaseException) -> bool:
    """Return whether a connection wasn't accepted in time."""
    return isinstance(error, RequestTimeoutError) and error.phase == "connect"
