"""Find out before the first item whether the batch's services are there and have its models."""

from __future__ import annotations

from collections.abc import Sequence

from foundry_lab.batch.ask import PoolAsker
from foundry_lab.batch.policy import Policy
from foundry_lab.batch.pool import EndpointPool
from foundry_lab.calls.async_caller import AsyncCaller
from foundry_lab.calls.core import ClientCore
from foundry_lab.errors import RequestTimeoutError, ServiceUnavailableError


def batch_caller(core: ClientCore, endpoint: str | None = None) -> AsyncCaller:
    """Return a caller like the client's, without a circuit breaker: a batch waits where a call gives up."""
    caller: AsyncCaller = core.twin(endpoint, breaker=False).caller
    return caller


async def open_pool(
    core: ClientCore,
    endpoints: Sequence[str | None],
    models: set[str | None],
    policy: Policy,
    patience_s: float,
) -> PoolAsker:
    """Return what asks the services; one that isn't there now is looked for while the others work.

    Raises:
        FoundryError: none is there, or one doesn't have a model that the batch names.
    """
    clients = [batch_caller(core, endpoint) for endpoint in endpoints or [None]]
    pool = EndpointPool(clients, models, limit=policy.maximum, patience_s=patience_s)
    missing: list[Exception] = []
    try:
        for endpoint in pool.endpoints:
            try:
                await pool.check(endpoint)
            except (ServiceUnavailableError, RequestTimeoutError) as error:
                missing.append(error)
                pool.lose(endpoint, str(error))
        if len(missing) == len(clients):
            raise missing[0]
    except BaseException:
        await pool.close()
        raise
    return PoolAsker(pool, policy)
