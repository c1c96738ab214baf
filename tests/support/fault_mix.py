"""Faults of many kinds at once."""

from __future__ import annotations

from foundry_lab.faults import KINDS, Fault


def mix(rate: float, *, route: str = "*", delay_s: float = 0.2) -> tuple[Fault, ...]:
    """Return faults of many kinds that together meet this share of the requests, each as often as the others.

    Left out are `refused`, which is all or nothing, and `duplicate`: the protocol doesn't number its events,
    so no client can tell a repeated one from a model that repeats itself.
    """
    kinds = [kind for kind in KINDS if kind not in ("refused", "duplicate", "status")]
    each = rate / (len(kinds) + 3)
    return (
        *(Fault(kind, rate=each, route=route, delay_s=delay_s) for kind in kinds),
        Fault("status", rate=each, route=route, status=429, retry_after=0),
        Fault("status", rate=each, route=route, status=500),
        Fault("status", rate=each, route=route, status=503),
    )
