"""What can go wrong on purpose: the kinds of fault and their parameters, without I/O."""

import fnmatch
import math
from numbers import Integral, Real
from types import NoneType
from typing import Literal, get_args

import msgspec

from foundry_lab._ground.checks import check_kind
from foundry_lab.errors import ConfigurationError

FaultKind = Literal[
    "latency",
    "refused",
    "reset",
    "reset_body",
    "status",
    "black_hole",
    "stall",
    "cut",
    "drip",
    "malformed_json",
    "wrong_content_type",
    "broken_event",
    "duplicate",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
STREAM_ONLY = ("broken_event", "duplicate")


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong.

    Kinds:
        latency: the request is passed on after `delay_s`; with `sigma` the delays are lognormal around it.
        refused: nobody listens, and connections that exist are closed, as if the service's process were gone.
        reset: the connection is reset before any answer, and the service never sees the request.
        reset_body: the connection is reset after the answer's headers.
        status: `status` is answered instead, with a `Retry-After` if `retry_after` is given.
        black_hole: the request is taken and never answered.
        stall: the answer begins and then goes silent: after `after` events of a stream, or half of a body.
        cut: the same, but the connection is closed there.
        drip: the answer comes a few bytes at a time, with `delay_s` before each piece.
        malformed_json: the JSON of the answer, or of every event of a stream, is cut in the middle.
        wrong_content_type: the answer says that it is text/html.
        broken_event: the JSON of the stream's event number `after` + 1 is cut. Plain answers pass.
        duplicate: that event is sent twice. Plain answers pass.

    Attributes:
        rate: share of the requests that meet it, above 0 and at most 1.
        route: path it is for, with shell wildcards: "/v1/*".
        delay_s: seconds, for latency and drip.
        sigma: spread of a lognormal latency (standard deviation of its logarithm); `delay_s` is the median.
        status: for kind status.
        retry_after: seconds for kind status.
        after: events that pass first, for stall, cut, broken_event and duplicate.

    Raises:
        ConfigurationError: a value that can't be used.
    """

    kind: FaultKind
    rate: float = 1.0
    route: str = "*"
    delay_s: float = 0.2
    sigma: float = 0.0
    status: int = 500
    retry_after: float | None = None
    after: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"There is no fault {self.kind!r}. Choose one of: {', '.join(KINDS)}.")
        check_route(self.route)
        for name in ("rate", "delay_s", "sigma"):
            check_kind(getattr(self, name), name, (Real,), "a number")
        for name in ("status", "after"):
            check_kind(getattr(self, name), name, (Integral,), "a whole number")
        check_kind(self.retry_after, "retry_after", (Real, NoneType), "seconds, or None")
        if not 0 < self.rate <= 1:
            raise ConfigurationError(f"rate={self.rate!r} must be above 0 and at most 1.")
        for name in ("delay_s", "sigma", "retry_after", "after"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigurationError(f"{name}={value!r} must be 0 or more, and finite.")
        if not 400 <= self.status <= 599:
            raise ConfigurationError(f"status={self.status!r} is no error. Give one from 400 to 599.")
        if self.kind == "refused" and (self.rate < 1 or self.route != "*"):
            raise ConfigurationError(
                'The fault "refused" closes the port, so it can\'t be for some requests only. '
                'Leave out rate and route, or take "reset".'
            )

    def __str__(self) -> str:
        return f"status {self.status}" if self.kind == "status" else self.kind


def check_route(route: object) -> None:
    """Raise ConfigurationError for what no path of a request can match."""
    check_kind(route, "route", (str,), 'a path, such as "/v1/*"')
    if not str(route).startswith(("/", "*", "?", "[")):
        raise ConfigurationError(
            f'route={route!r} meets no request: paths begin with a slash, such as "/v1/*".'
        )


def pick(faults: tuple[Fault, ...], path: str, draw: float) -> Fault | None:
    """Return the fault that a request meets, or None. `draw` is a random number from 0 to 1, without 1.

    One draw decides among all, so that a fault's rate is its share of the requests, however many there are.
    """
    for fault in faults:
        if fnmatch.fnmatchcase(path, fault.route):
            draw -= fault.rate
            if draw < 0:
                return fault
    return None
