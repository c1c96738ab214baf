"""A batch on a Dask cluster: each worker process asks its own service, the results come home to one file.

    from distributed import Client
    report = await client.complete_batch(items, output="results.jsonl", cluster=Client("scheduler:8786"))

A worker's service is the one its own environment names (FOUNDRY_ENDPOINT, FOUNDRY_API_KEY), else the lab's on
its machine; the client's key stays here. Work goes out in chunks; that of a lost worker runs again on
another. Results are written here alone and only for chunks that came back whole, so none is written twice.
Needs the extra `foundry-lab[dask]`.
"""

import asyncio
import threading
from functools import partial
from typing import Any

from foundry_lab._ground.checks import check_count
from foundry_lab.batch.items import BatchItem
from foundry_lab.batch.options import AdaptiveConcurrency, Choices
from foundry_lab.batch.pool import EndpointPool
from foundry_lab.batch.result import Outcome
from foundry_lab.calls.core import ClientCore
from foundry_lab.errors import ConfigurationError, FoundryError, ServiceUnavailableError
from foundry_lab.protocol.headers import without_credentials

_one_chunk_at_a_time = threading.Lock()
"""Dask runs a task in each thread of a worker; its one service takes one chunk."""


class DaskAsker:
    """Has chunks of a batch asked by the workers of a cluster, whose own limits hold there.

    The cluster is its owner's to close.

    Attributes:
        workers: how many chunks are taken at once. chunk: items in one.

    Raises:
        ConfigurationError: no open `distributed.Client`, a cluster without workers, or a client with a cache.
    """

    def __init__(self, core: ClientCore, choices: Choices) -> None:
        cluster: Any = choices.cluster
        if choices.endpoints:
            raise ConfigurationError(
                "Give endpoints or cluster, not both: a cluster's workers use their own endpoints."
            )
        plain = hasattr(cluster, "submit") and not getattr(cluster, "asynchronous", True)
        if not plain or cluster.status != "running":
            raise ConfigurationError(
                f"cluster={cluster!r} is no distributed.Client in its plain form, or it is closed; make one "
                "with distributed.Client(address)."
            )
        self.chunk = check_count(choices.chunk_size, "chunk_size")
        if core.cache is not None:
            raise ConfigurationError(
                "A cluster's workers don't share this client's response cache; use a client without one."
            )
        workers = len(cluster.nthreads())
        if workers == 0:
            raise ConfigurationError("The cluster has no workers yet; start some, or wait_for_workers(1).")
        self.workers = 2 * workers  # one chunk at work and one on its way, for each
        self._cluster = cluster
        # No key and no endpoint: a worker's own environment names them.
        client = {
            "model": core.settings.model if core.settings.model_is_explicit else None,
            "headers": without_credentials(core.caller.headers),
            "retry": core.retry,
        }
        self._ask_chunk = partial(ask_chunk, client, choices.policy, choices.patience_s)

    async def ask(self, items: list[BatchItem]) -> list[Outcome]:
        """Return how the items of a chunk ended.

        Raises:
            ServiceUnavailableError: the cluster couldn't run it, or a worker has no service.
        """
        future = self._cluster.submit(self._ask_chunk, items, pure=False)
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
            return await asyncio.to_thread(future.result)
        except FoundryError as error:
            raise ServiceUnavailableError(f"A worker of the cluster can't go on: {error}") from error
        except Exception as error:
            raise ServiceUnavailableError(
                f"The Dask cluster couldn't run a part of the batch ({type(error).__name__}: {error})"
            ) from error
        finally:
            future.cancel()  # nothing if it is done; else nobody waits for it any more


def ask_chunk(
    client: dict[str, Any], policy: AdaptiveConcurrency, patience_s: float, items: list[BatchItem]
) -> list[Outcome]:
    """Ask a chunk's items at this machine's service, by a client with these arguments. Runs in a worker.

    Raises:
        FoundryError: there is no service here, or it doesn't have the model.
    """

    async def ask() -> list[Outcome]:
        models = {item.request.model for item in items if item.request is not None}
        pool = EndpointPool(ClientCore(**client), [], models, policy, patience_s)
        try:
            await pool.open()
            # No TaskGroup: its error holds itself, which Dask can't pickle.
            return await asyncio.gather(*(pool.ask_one(item) for item in items))
        finally:
            await pool.close()

    with _one_chunk_at_a_time:
        return asyncio.run(ask())
