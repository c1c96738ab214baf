"""How long the service has been without work, so that a hub of many learners gets its memory back."""

import os
import time

from foundry_lab._ground.checks import check_timeout

VARIABLE = "FOUNDRY_LAB_IDLE_STOP"
BUSY_SHARE = 0.04
"""Of one CPU. At rest the service takes a tenth of it; a single token takes three times as much a look."""


def idle_stop_s() -> float | None:
    """Return FOUNDRY_LAB_IDLE_STOP: after how many seconds without work the service stops; None for never.

    Raises:
        ConfigurationError: it isn't a positive number.
    """
    value = os.environ.get(VARIABLE, "").strip()
    return check_timeout(value, VARIABLE) if value else None


class IdleWatch:
    """Tells requests by the CPU time of this process, as the SDK says nothing of them.

    Who only asks for the status, such as a dashboard, keeps no service alive.

    Args:
        limit_s: seconds without work until it is `over`; None for never.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._worked_at = self._looked_at = time.monotonic()
        self._cpu_s = time.process_time()

    def over(self, *, downloads: int = 0) -> bool:
        """Look, and return whether the time without work is over. Call it about twice a second.

        Args:
            downloads: how many are under way; they take little CPU time.
        """
        now, cpu_s = time.monotonic(), time.process_time()
        if downloads or cpu_s - self._cpu_s > BUSY_SHARE * (now - self._looked_at):
            self._worked_at = now
        self._looked_at, self._cpu_s = now, cpu_s
        return self._limit_s is not None and now - self._worked_at >= self._limit_s
