# %% [markdown]
"""
# 5 · Production, part 2: operations

To *operate* a service means to keep it running, and to know how it is. Here you watch a service, kill it, see it come back, and read what is left behind in numbers and logs. At the end, clients are tested.

**After this notebook you can**

- say whether a service is healthy, and let a monitor look at it;
- measure how long it takes to come back after its process was killed;
- read a dashboard, metrics and a log;
- find out what a log must not contain;
- test any client with a checklist of nine trials.

**Time:** about 75 minutes: 15 to read and run, 60 for the two exercises. (This is computed, not measured; [0 · Start](00_start.ipynb) says how.) Running the cells takes less than two minutes.

**You need:** [4 · Production](04_production.ipynb). Words: [glossary](glossary.md). **One cell kills the lab's service.** Other open notebooks that use it will have to ask again. A service that is not your own is left alone.
"""

# %% [markdown]
"""
First, what is installed.
"""

# %%
import platform
from importlib.metadata import version

for package in ("foundry-lab", "foundry-local-sdk", "aiohttp", "prometheus-client"):
    print(f"{package:18} {version(package)}")
print(f"{'python':18} {platform.python_version()}")

# %% [markdown]
"""
You may change these, and run the notebook again.
"""

# %% tags=["parameters"]
CALLERS = 3  # who ask while the service is killed
TRAFFIC_S = 10  # for how many seconds they ask

# %% [markdown]
"""
## Health

Can the service answer? Ask it once by hand. `probe=True` lets the model write one token: a service can be running and still be unable to answer. `is_mine` says whether the service is your own.
"""

# %%
import os

from foundry_lab import FoundryAPIClient, engine, ensure_service

service_url = ensure_service()
is_mine = engine.service_status() is not None and not os.environ.get("FOUNDRY_ENDPOINT")
client = FoundryAPIClient()
health = await client.health_check(probe=True)
print(health.status, health.reasons)
if health.probe_latency_s is not None:
    print(f"one token in {health.probe_latency_s:.2f} s")

# %% [markdown]
"""
The status is one of three words, and `reasons` says why, if it isn't the first:

- *healthy*: it answers, and a model is loaded;
- *degraded*: it answers, but something is missing;
- *unavailable*: nobody answers.

A **monitor** looks again and again, at regular times. A **supervisor** starts the service again if its process has died. It may do so here only if the service is your own.
"""

# %%
from foundry_lab import CircuitBreaker, Supervisor
from foundry_lab.monitor import HealthMonitor

survivor = FoundryAPIClient(retries=1, breaker=CircuitBreaker(open_s=0.5), metrics=False)
monitor = HealthMonitor(survivor, 0.25, supervisor=Supervisor() if is_mine else None)
monitor.on_transition(lambda change: print(f"{change.old} -> {change.new}"))

# %% [markdown]
"""
## Kill it

The operating system can end a process at once (`kill -9`; on Windows, `TerminateProcess`). The process can't prevent it, and can't finish its work first.
"""

# %%
import psutil


def kill_the_service():
    if is_mine:
        psutil.Process(engine.service_status().pid).kill()
    else:
        print("left out: the service is not mine alone, so nothing is killed")

# %% [markdown]
"""
Some callers send small requests. Each call is noted: when it began, when it ended, and how (as in notebook 4).
"""

# %%
import asyncio
import time

from foundry_lab.errors import CircuitOpenError, FoundryError


async def call(client, outcomes):
    began, word = time.monotonic(), "ok"
    try:
        await client.complete("Hi", max_tokens=1, timeout=5)
    except CircuitOpenError:
        word = "open"
    except FoundryError:
        word = "failed"
    outcomes.append((began, time.monotonic(), word))


async def traffic(client, outcomes, seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await call(client, outcomes)
        await asyncio.sleep(0.05)

# %% [markdown]
"""
They ask for `TRAFFIC_S` seconds. After two seconds, the service is killed, if it is your own. Look at what the monitor prints.
"""

# %%
outcomes = []
async with monitor:
    load = [asyncio.create_task(traffic(survivor, outcomes, TRAFFIC_S)) for _ in range(CALLERS)]
    await asyncio.sleep(2)
    killed_at = time.monotonic()
    kill_the_service()
    await asyncio.gather(*load)

# %% [markdown]
"""
Above: the service's health, as the monitor saw it. Below: the calls. Find the kill, the moment when the monitor noticed it, the restart, and the first answer after it.
"""

# %%
from foundry_lab import plots

plots.recovery(outcomes, list(monitor.history), list(monitor.restarts), killed_at)

# %% [markdown]
"""
The same in numbers:
"""

# %%
seconds = plots.time_to_recovery_s(outcomes, killed_at)
words = [word for _, _, word in outcomes]
print("recovered after", "-" if seconds is None else f"{seconds:.1f} s")
print(f"{words.count('ok')} calls answered, {words.count('failed')} sent and failed", end=", ")
print(f"{words.count('open')} refused")

# %% [markdown]
"""
How to read it:

- *Sent and failed* are the calls that met the dead service. Are there few? The breaker opens after some of them.
- *Refused* are the calls that the breaker didn't send. Nobody had to wait for them.
- The time to recover is the time until the monitor looks, plus the time of a start, plus the time until the breaker tries again.

(Windows takes about two seconds to refuse a connection, so there you may see fewer refusals.)

A new service has another port, as a rule. Did the client find it by itself?
"""

# %%
print("before", service_url, "| now", survivor.endpoint)
service_url = ensure_service()

# %% [markdown]
"""
## A dashboard

A **dashboard** shows everything on one page: health, memory, latency, the breaker, the requests. This one stands behind a fault proxy, so you can choose a fault and see what changes. `Ask` sends one request.
"""

# %%
from foundry_lab import widgets
from foundry_lab.faults import Fault, FaultProxy
from foundry_lab.metrics import Metrics

proxy = FaultProxy(service_url, seed=5).start()
metrics = Metrics()
watched = FoundryAPIClient(proxy.url, metrics=metrics)
dashboard = widgets.HealthDashboard(watched, proxy=proxy, interval_s=0.25).start()

# %%
for number in range(6):
    await watched.complete("Say hello.", max_tokens=4)
    await asyncio.sleep(0.3)
dashboard

# %% [markdown]
"""
To try it, run the notebook only up to this cell: the last cells stop it. Choose the fault `refused`, and wait for the light to change. Press `Ask` a few times, until the breaker is *open*. Then choose *no fault*. For a short time the light is *healthy* and the breaker still *open*. That is no mistake: the light asks the service itself, and the breaker waits before it lets the next request try.

## Metrics

People look at a dashboard. Programs read **metrics**: numbers that are counted all the time. The client counts into a **registry**, a list of named numbers. First a summary for people.
"""

# %%
summary = metrics.snapshot()
print(sum(summary.requests.values()), "requests,", summary.completion_tokens, "tokens")
latency = summary.latency
print(f"latency p50 {latency.p50:.2f} s, p95 {latency.p95:.2f} s, of {latency.count} requests")

# %% [markdown]
"""
**Prometheus** is a program that collects such numbers from many services. It fetches them as text, here from a small server that only this machine can reach. Each line is a name, some **labels** in braces, and a number.
"""

# %%
import requests

with metrics.serve() as server, requests.Session() as http:
    http.trust_env = False  # use no company proxy: this is our own machine
    text = http.get(server.url, timeout=5).text
wanted = ("foundry_lab_requests_total{", "foundry_lab_tokens_total{", "foundry_lab_circuit")
print("\n".join(line for line in text.splitlines() if line.startswith(wanted)))

# %% [markdown]
"""
Look at the labels: there are few, and each has few possible values. A label with a prompt or a request's id in it would make a new line for every request, until the collector's memory is full.

The dashboard's own looks are counted too: they are the lines with `health_check`.

`circuit_breaker_state` is 0 for closed, 1 for half-open and 2 for open. It is easy to raise an alarm when it is 2.

## Logs

A **log** has one line for each thing that happened. The client's is off, until you ask for it. With `json=True` each line is JSON, so that programs can search it. Here a request meets a 500 first, and its prompt holds a secret.
"""

# %%
import io

from foundry_lab.logs import configure_logging, reset_logging

lines = io.StringIO()
configure_logging("INFO", json=True, stream=lines)
proxy.script(Fault("status", status=500))
await watched.complete("My secret is 1234.", max_tokens=4)
reset_logging()

# %% [markdown]
"""
Find the outcome, the number of attempts, and the request's id.
"""

# %%
import json

entry = json.loads(lines.getvalue().splitlines()[-1])
print(json.dumps(entry, indent=1))

# %% tags=["nbval-check-output"]
print("outcome", entry["outcome"], "after", entry["attempts"], "attempts")
print("the secret is in the log:", "1234" in lines.getvalue())

# %% [markdown]
"""
- The caller never noticed the 500. The log did: there were two attempts.
- The request's id was sent along, in the header `X-Request-Id`. So this line can be found again in the log of a proxy, or of the service.
- The prompt is not in the log, because it may hold personal data. (`prompts=100` would log its first hundred characters. Think before you use it.)
"""

# %% exercise="5.1"

# %% [markdown]
"""
## The checklist

Nine trials show whether a client is ready for production. Each stands behind a fault proxy. The first client is plain `requests`, as most examples use it.
"""

# %%
CHAT = "/v1/chat/completions"


def plain(url):
    http = requests.Session()
    http.trust_env = False
    model = http.get(url + "/models/loaded", timeout=5).json()[0]

    def ask(prompt, timeout_s):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
        answer = http.post(url + CHAT, json=body, timeout=timeout_s)
        return answer.json()["choices"][0]["message"]["content"]

    return ask

# %% [markdown]
"""
For each trial, compare what it demands with what was seen. (`to_thread` runs the trials in a thread of their own, so that the notebook isn't blocked.)
"""

# %%
from foundry_lab.faults.checklist import run_checklist

print(await asyncio.to_thread(run_checklist, plain, service_url))

# %% [markdown]
"""
Which trials does it pass? Are they those in which it is right to do nothing? And find `KeyError` in the list. It says nothing about the service: this code expected an answer, and got an error message.

Now the lab's client.
"""

# %%
from foundry_lab import SyncFoundryAPIClient


def ours(url):
    sync_client = SyncFoundryAPIClient(url, metrics=False)
    return lambda prompt, timeout_s: sync_client.complete(prompt, timeout=timeout_s, max_tokens=4).content

# %%
result = await asyncio.to_thread(run_checklist, ours, service_url)
print(result)

# %% tags=["nbval-check-output"]
print("ready for production:", result.passed)

# %% exercise="5.2"

# %% [markdown]
"""
What no client can do for you: keep the line of waiting requests so short that answers still matter, tell people what you do with their prompts, and decide what to show when there is no answer.

A script that uses everything from these two notebooks is `examples/production.py` in the project's repository.

## Done

Close what is open. The service goes on; `foundry-lab stop` in a terminal ends it.
"""

# %%
dashboard.close()
proxy.close()
for each in (client, survivor, watched):
    await each.close()

# %% [markdown]
"""
## Take away

1. A monitor finds a dead service, a supervisor starts it again, and a breaker keeps callers from waiting in the meantime.
2. Count everything, log each request with its id, and keep prompts out of both.
3. Test a client with faults before others depend on it.

**This was the last notebook.** `check.progress()` shows which exercises you have solved. Then write a small program of your own with the client, and let it take the checklist.
"""
