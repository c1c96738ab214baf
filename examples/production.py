"""A worker with everything switched on: a prompt a line in, an answer a line out, as JSON.

    echo "Name three colours." | python examples/production.py --metrics-port 9464

SIGINT and SIGTERM end it in good order: what is under way gets ten seconds to finish."""

import argparse
import asyncio
import itertools
import json
import logging
import signal
import sys
import threading

from foundry_lab import CircuitBreaker, FoundryAPIClient, RetryPolicy
from foundry_lab.errors import FoundryError
from foundry_lab.logs import configure_logging
from foundry_lab.monitor import HealthMonitor
from foundry_lab.supervisor import Supervisor


async def work(client: FoundryAPIClient, prompts: asyncio.Queue, stop: asyncio.Event) -> None:
    while (prompt := await prompts.get()) is not None and not stop.is_set():
        try:
            answer = await client.complete(prompt, max_tokens=100)
            print(json.dumps({"prompt": prompt, "answer": answer.content}), flush=True)
        except FoundryError as error:  # one bad prompt must not end the worker
            print(json.dumps({"prompt": prompt, "error": str(error)}), flush=True)
    prompts.put_nowait(None)  # the other workers wait for the end too


async def main(metrics_port: int) -> None:
    configure_logging(json=True)
    loop, prompts, stop = asyncio.get_running_loop(), asyncio.Queue(), asyncio.Event()

    def end(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: (stop.set(), prompts.put_nowait(None)))

    def read() -> None:  # in a thread, as a terminal or a pipe can't be awaited everywhere
        for line in itertools.chain(sys.stdin, [None]):
            loop.call_soon_threadsafe(prompts.put_nowait, line and line.strip())

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=read, daemon=True).start()
    client = FoundryAPIClient(retry=RetryPolicy(), breaker=CircuitBreaker())
    supervisor = None if client.settings.endpoint else Supervisor()  # only for the lab's own service
    async with client, HealthMonitor(client, interval_s=5.0, supervisor=supervisor):
        with client.metrics.serve(metrics_port) as server:
            logging.getLogger("foundry_lab").info("metrics at %s", server.url)
            workers = asyncio.gather(*(work(client, prompts, stop) for _ in range(2)))
            await asyncio.wait({workers, asyncio.ensure_future(stop.wait())}, return_when="FIRST_COMPLETED")
            await asyncio.wait_for(workers, timeout=10)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--metrics-port", type=int, default=9464)
    asyncio.run(main(arguments.parse_args().metrics_port))
