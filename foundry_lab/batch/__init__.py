"""Batches: thousands of requests, each result on disk before it counts, none lost and none asked twice.

`complete_batch` of both clients is the way in. An item's way: `source` reads it, `items` makes a request of
it, `plan` says whether it is still to do, a worker of `run` takes it as `concurrency` allows, `ask` sends it
to a service of the `pool` (or `cluster` to a Dask worker), `output` has its line on disk (in a
`results_file`, if one was named), `progress` shows it, and `report` sums it up.
"""

from foundry_lab.batch.concurrency import AdaptiveConcurrency
from foundry_lab.batch.result import BatchResult

__all__ = ["AdaptiveConcurrency", "BatchResult"]
