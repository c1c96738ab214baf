"""One look at the service: does it answer, is a model loaded, how large and how old is its process."""

import contextlib
import time
from urllib.parse import urlsplit

import msgspec
import psutil

from foundry_lab import protocol
from foundry_lab.calls.chat import one_token
from foundry_lab.calls.models import Ask, Directory
from foundry_lab.calls.target import Target
from foundry_lab.errors import FoundryError
from foundry_lab.types import Health

PROBE_SLOW_S = 5.0
"""A one-token completion that takes longer: the service is busy with others, or the machine is too slow."""
MEMORY_LOW_MIB = 256
"""With less free memory than this on its machine the service will soon be slowed by paging, or killed."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def process_facts(pid: int | None, endpoint: str) -> tuple[float, float] | tuple[None, None]:
    """Return memory (MiB, resident) and age (seconds) of the service's process, None where it can't be seen.

    Foundry Local's status names a process id and neither memory nor uptime. The id means something here only
    if the service is on this machine.
    """
    if pid is not None and urlsplit(endpoint).hostname in _LOOPBACK:
        with contextlib.suppress(psutil.Error, ValueError):  # the second for a negative id
            process = psutil.Process(pid)
            with process.oneshot():
                return process.memory_info().rss / 2**20, max(0.0, time.time() - process.create_time())
    return None, None


def unreachable(endpoint: str | None, error: FoundryError) -> Health:
    """Return the result for a service that can't be asked."""
    return Health(status="unavailable", endpoint=endpoint or "", reasons=(str(error),))


class _Status(msgspec.Struct):
    pid: int | None = None


async def check(directory: Directory, ask: Ask, *, target: Target, probe: bool = False) -> Health:
    """Look once, without retries. Never raises for a service that is down: that is a result.

    Args:
        probe: also have one token generated, which shows whether the model really works.
    """
    started = time.perf_counter()
    try:
        dialect = await directory.dialect(ask, once=True)
        reply = await ask(protocol.Call("GET", dialect.status, once=True))
        latency_s = time.perf_counter() - started
        pid = protocol.decode(reply, _Status, "the service's status").pid
        loaded = await directory.loaded_models(ask, once=True)
    except FoundryError as error:
        return unreachable(target.endpoint, error)

    reasons = [] if loaded else ["No model is loaded: load_model(alias) loads one."]
    probe_latency_s = None
    if probe and loaded:
        probe_started = time.perf_counter()
        try:
            await one_token(ask, loaded[0])
            probe_latency_s = time.perf_counter() - probe_started
            if probe_latency_s > PROBE_SLOW_S:
                reasons.append(
                    f"A one-token completion took {probe_latency_s:.1f} s: service or machine is busy."
                )
        except FoundryError as error:
            reasons.append(f"A one-token completion failed: {error}")
    memory_mib, uptime_s = process_facts(pid, target.endpoint)
    if memory_mib is not None and (free_mib := psutil.virtual_memory().available / 2**20) < MEMORY_LOW_MIB:
        reasons.append(
            f"Only {free_mib:.0f} MiB of memory are free: close other programs, or load a smaller model."
        )
    return Health(
        status="degraded" if reasons else "healthy",
        endpoint=target.endpoint,
        reasons=tuple(reasons),
        loaded_models=tuple(loaded),
        memory_usage=memory_mib,
        uptime_s=uptime_s,
        version=target.versions.get("foundry-local-sdk"),
        versions=dict(target.versions),
        latency_s=latency_s,
        probe_latency_s=probe_latency_s,
        pid=pid,
    )
