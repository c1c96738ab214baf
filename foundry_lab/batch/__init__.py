"""Batches: thousands of requests, each result on disk before it counts, none lost and none asked twice.

`complete_batch` of both clients is the way in. An item's way: `source` reads it, `items` makes a request of
it, `plan` says whether it is still to do, a worker of `run` takes it, the `pool` sends it to one of its
services as `concurrency` allows (or `cluster` to a Dask worker), `output` has its line on disk, and
`report` sums it up.
"""

from foundry_lab.batch.options import AdaptiveConcurrency
from foundry_lab.batch.result import BatchResult

__all__ = ["AdaptiveConcurrency", "BatchResult"]
