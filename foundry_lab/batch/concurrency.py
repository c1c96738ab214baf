"""How many requests of a batch are under way at once: a number that feels its way, or is held."""

from __future__ import annotations

from foundry_lab._ground.checks import is_whole
from foundry_lab.errors import ConfigurationError

DEFAULT_CONCURRENCY = 2
"""One request at work and the next one on its way, so that the service never waits for the client."""

MAX_CONCURRENCY = 1024


class AdaptiveConcurrency:
    """Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989), on latency.

    Latency is counted per token, so that long answers don't look like congestion. After every `window`
    requests the limit goes up by one if their mean was within `tolerance` times the best window so far, else
    it is halved; a failed request halves it at once. The best is let drift up slowly, as a machine may get
    slower for good.

    Args:
        start, minimum, maximum: limits in requests at each service. An iterator is asked for up to `maximum`
            items, of which those above the limit of the moment wait.
        tolerance: how much slower than the best is still fine.
        window: requests between two decisions.

    Raises:
        ConfigurationError: limits out of order, or a tolerance below 1.
    """

    DRIFT = 1.02

    def __init__(
        self,
        start: int = DEFAULT_CONCURRENCY,
        *,
        minimum: int = 1,
        maximum: int = 16,
        tolerance: float = 1.5,
        window: int = 8,
    ) -> None:
        if not (1 <= minimum <= start <= maximum <= MAX_CONCURRENCY and tolerance >= 1 and window >= 1):
            raise ConfigurationError(
                f"minimum={minimum!r}, start={start!r}, maximum={maximum!r} must grow in this order from 1 "
                f"to {MAX_CONCURRENCY}; tolerance={tolerance!r} and window={window!r} must be at least 1."
            )
        self.limit = start
        self.maximum = maximum
        self._minimum = minimum
        self._tolerance = tolerance
        self._window = window
        self._start_window()
        self._best: float | None = None

    def __repr__(self) -> str:
        return f"adaptive, {self._minimum} to {self.maximum}"

    def observe(self, latency_s: float, tokens: int, ok: bool) -> None:
        """Take in one finished request."""
        if not ok:
            self._decrease()
            return
        self._sum += latency_s / max(1, tokens)
        self._count += 1
        if self._count >= self._window:
            mean = self._sum / self._count
            if self._best is None or mean < self._best:
                self._best = mean
            if mean <= self._best * self._tolerance:
                self.limit = min(self.maximum, self.limit + 1)
                self._start_window()
            else:
                self._decrease()
            self._best *= self.DRIFT

    def _decrease(self) -> None:
        self.limit = max(self._minimum, self.limit // 2)
        self._start_window()

    def _start_window(self) -> None:
        self._sum = 0.0
        self._count = 0


def as_policy(concurrency: object) -> AdaptiveConcurrency:
    """Return what a `concurrency` argument means: a number, "adaptive", or a policy.

    Raises:
        ConfigurationError: none of these.
    """
    if isinstance(concurrency, AdaptiveConcurrency):
        return concurrency
    if concurrency == "adaptive":
        return AdaptiveConcurrency()
    if not is_whole(concurrency) or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigurationError(
            f'concurrency={concurrency!r} must be a whole number from 1 to {MAX_CONCURRENCY}, or "adaptive".'
        )
    fixed = int(concurrency)
    return AdaptiveConcurrency(fixed, minimum=fixed, maximum=fixed)  # it has nowhere to go
