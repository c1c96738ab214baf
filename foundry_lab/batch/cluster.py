"""A batch on a Dask cluster: each worker process asks its own service, the results come home to one file.

    from distributed import Client
    report = await client.complete_batch(items, output="results.jsonl", cluster=Client("scheduler:8786"))

A worker's service is the one its own environment names (FOUNDRY_ENDPOINT), else the lab's on its machine.
Work goes out in chunks; the chunk of a worker that is lost runs again on another. Results are written here
alone and only for chunks that came back whole, so none is written twice. Needs the extra `foundry-lab[dask]`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from foundry_lab.batch.ask import failed
from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.policy import Policy
from foundry_lab.batch.result import Outcome
from foundry_lab.batch.start import open_pool
from foundry_lab.calls.core import ClientCore
from foundry_lab.config import Settings
from foundry_lab.errors import ConfigurationError, FoundryError, ServiceUnavailableError
from foundry_lab.policies.retry import RetryPolicy

_one_chunk_at_a_time = threading.Lock()
"""Dask runs a task in each thread of a worker; its one service takes one chunk."""


class ChunkPlan(msgspec.Struct, frozen=True):
    """What a worker needs besides the items. The headers may hold a key, so the cluster must be trusted."""

    model: str | None
    headers: dict[str, str]
    retry: RetryPolicy
    policy: Policy
    patience_s: float


class DaskAsker:
    """Has chunks of a batch asked by the workers of a cluster.

    Raises:
        ConfigurationError: not a `distributed.Client`, a cluster without workers, or a client with a cache.
    """

    def __init__(
        self, cluster: Any, core: ClientCore, policy: Policy, patience_s: float, chunk_size: int
    ) -> None:
        if not hasattr(cluster, "submit") or getattr(cluster, "asynchronous", True):
            raise ConfigurationError(
                f"cluster={cluster!r} is no distributed.Client in its plain form; make one with "
                "distributed.Client(address)."
            )
        if type(chunk_size) is not int or chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size!r} must be a whole number from 1.")
        if core.cache is not None:
            raise ConfigurationError(
                "A cluster's workers don't share this client's response cache; use a client without one."
            )
        workers = len(cluster.nthreads())
        if workers == 0:
            raise ConfigurationError("The cluster has no workers yet; start some, or wait_for_workers(1).")
        self.chunk = chunk_size
        self.workers = 2 * workers  # one chunk at work and one on its way, for each
        self._cluster = cluster
        model = core.settings.model if core.settings.model_is_explicit else None
        self._plan = ChunkPlan(model, core._headers, core.retry, policy, patience_s)

    def allows(self, worker: int) -> bool:
        """Return whether this worker may take more items now: the cluster's own service limits hold there."""
        return True

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items of a chunk ended.

        Raises:
            ServiceUnavailableError: the cluster couldn't run it, or a worker has no service.
        """
        outcomes = [failed(item, ConfigurationError(item.problem)) for item in items if item.request is None]
        good = [item for item in items if item.request is not None]
        if not good:
            return outcomes
        future = self._cluster.submit(ask_chunk, self._plan, good, pure=False)
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
            outcomes += await asyncio.to_thread(future.result)
        except FoundryError as error:
            raise ServiceUnavailableError(f"A worker of the cluster can't go on: {error}") from error
        except Exception as error:
            raise ServiceUnavailableError(
                f"The Dask cluster couldn't run a part of the batch ({type(error).__name__}: {error})"
            ) from error
        finally:
            future.cancel()  # nothing if it is done; else nobody waits for it any more
        return outcomes

    def on_wait(self, callback: Callable[[bool], None]) -> None:
        """The workers wait by themselves; nobody here knows."""

    async def close(self) -> None:
        """The cluster is its owner's to close."""


def ask_chunk(plan: ChunkPlan, items: list[BatchItem]) -> list[Outcome]:
    """Ask a chunk's items at this machine's service. Runs in a worker.

    Raises:
        FoundryError: there is no service here, or it doesn't have the model.
    """
    with _one_chunk_at_a_time:
        return asyncio.run(_ask_chunk(plan, items))


async def _ask_chunk(plan: ChunkPlan, items: list[BatchItem]) -> list[Outcome]:
    core = ClientCore(
        settings=Settings().replace(model=plan.model), headers=plan.headers, retry=plan.retry, breaker=False
    )
    models = {item.request.model for item in items if item.request is not None}
    asker = await open_pool(core, [], models, plan.policy, plan.patience_s)
    outcomes: list[Outcome] = []
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            outcomes.extend(await asker.ask([item]))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.policy.limit):
                group.create_task(work())
    except* FoundryError as errors:
        raise errors.exceptions[0] from None
    finally:
        await asker.close()
    return outcomes
