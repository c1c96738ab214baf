"""A worker with everything switched on: a prompt a line in, an answer or an error a line out, as JSON.

    echo "Name three colours." | python examples/production.py
METRICS_PORT is where Prometheus looks (9464). SIGINT and SIGTERM let it finish the prompt under
way; what it hasn't read yet stays with the sender."""

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from foundry_lab import FoundryError, HealthMonitor, Supervisor, SyncFoundryAPIClient, configure_logging


def answer(client: SyncFoundryAPIClient, prompt: str) -> None:
    try:
        result = {"answer": client.complete(prompt, max_tokens=100).content}
    except FoundryError as error:  # one bad prompt must not end the worker
        result = {"error": str(error)}
    print(json.dumps({"prompt": prompt, **result}), flush=True)


sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a byte that is no text must not end the reading
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit())
try:
    configure_logging(json=True)
    client = SyncFoundryAPIClient()  # retries, deadline, circuit breaker and metrics are on
    supervisor = None if client.settings.endpoint else Supervisor()  # only for the lab's own service
    monitor = HealthMonitor(client, interval_s=5.0, supervisor=supervisor)
    metrics = client.metrics.serve(int(os.environ.get("METRICS_PORT", "9464")))
    with metrics, client, monitor, ThreadPoolExecutor(1) as thread:
        for prompt in filter(None, map(str.strip, sys.stdin)):
            thread.submit(answer, client, prompt).result()  # a signal ends this wait, not the request
except FoundryError as error:  # a setting that can't be used, or no service to be had
    sys.exit(str(error))
except BrokenPipeError:  # nobody reads on, as behind `| head -1`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
