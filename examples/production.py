"""A worker with everything switched on: a prompt a line in, an answer or an error a line out, as JSON.

    echo "Name three colours." | python examples/production.py --metrics-port 9464

SIGINT and SIGTERM end it in good order: what is under way gets ten seconds, the rest is called "stopped"."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
import threading

from foundry_lab import CircuitBreaker, FoundryAPIClient, FoundryError, HealthMonitor, RetryPolicy, Supervisor
from foundry_lab.logs import configure_logging


def say(prompt: str, **result: str) -> None:
    print(json.dumps({"prompt": prompt, **result}), flush=True)


async def work(client: FoundryAPIClient, prompts: asyncio.Queue, stop: asyncio.Event) -> None:
    while not stop.is_set() and (prompt := await prompts.get()) is not None:
        result = {"error": "stopped"}
        try:
            result = {"answer": (await client.complete(prompt, max_tokens=100)).content}
        except FoundryError as error:  # one bad prompt must not end the worker
            result = {"error": str(error)}
        finally:
            say(prompt, **result)
    prompts.put_nowait(None)  # the other worker waits for the end too


async def main(metrics_port: int, grace_s: float) -> None:
    configure_logging(json=True)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    prompts, stop = asyncio.Queue(), asyncio.Event()

    def end() -> None:
        stop.set()
        prompts.put_nowait(None)  # for a worker that waits
        loop.call_later(grace_s, task.cancel)

    def read() -> None:  # in a thread, as a terminal or a pipe can't be awaited everywhere
        sys.stdin.reconfigure(
            encoding="utf-8", errors="replace"
        )  # a byte that isn't text must not end the reading
        for line in filter(str.strip, sys.stdin):
            loop.call_soon_threadsafe(prompts.put_nowait, line.strip())
        loop.call_soon_threadsafe(prompts.put_nowait, None)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    client = FoundryAPIClient(retry=RetryPolicy(), breaker=CircuitBreaker())
    supervisor = None if client.settings.endpoint else Supervisor()  # only for the lab's own service
    with client.metrics.serve(metrics_port) as server:  # a taken port ends it before a service is started
        logging.getLogger("foundry_lab").info("metrics at %s", server.url)
        threading.Thread(target=read, daemon=True).start()
        try:
            async with client, HealthMonitor(client, interval_s=5.0, supervisor=supervisor):
                await asyncio.gather(*(work(client, prompts, stop) for _ in range(2)))
        finally:
            while not prompts.empty():
                if prompt := prompts.get_nowait():
                    say(prompt, error="stopped")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--metrics-port", type=int, default=9464)
    arguments.add_argument("--grace-s", type=float, default=10.0)
    try:
        with contextlib.suppress(asyncio.CancelledError):  # the ten seconds were over
            asyncio.run(main(**vars(arguments.parse_args())))
    except FoundryError as error:
        sys.exit(str(error))
