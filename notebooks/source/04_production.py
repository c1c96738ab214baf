# %% [markdown]
"""
# 4 · Production: break it on purpose

A demo works when everything works. Here you break a service on purpose, in many ways, and look at what protects a program that uses it.

**After this notebook you can**

- make a service fail in a chosen way, and read in a log what happened;
- say which errors should be tried again, and which never;
- say why clients should wait for a random time;
- keep a call within one budget of time;
- use a circuit breaker, and read its states.

**Time:** about 65 minutes: 15 to read and run, 50 for the four exercises. (This is computed, not measured; [0 · Start](00_start.ipynb) says how.) Running the cells takes about one minute.

**You need:** [1 · Basic](01_basic.ipynb), and `await` from [0 · Start](00_start.ipynb). Words: [glossary](glossary.md).
"""

# %% [markdown]
"""
First, what is installed.
"""

# %%
import platform
from importlib.metadata import version

for package in ("foundry-lab", "foundry-local-sdk", "aiohttp", "requests"):
    print(f"{package:18} {version(package)}")
print(f"{'python':18} {platform.python_version()}")

# %% [markdown]
"""
You may change these, and run the notebook again.
"""

# %% tags=["parameters"]
CALLS = 10  # calls in the section about retries
CROWD = 50  # clients in the section about waits
BUDGET_S = 1.5  # seconds for one call, in the section about time

# %% [markdown]
"""
## A service, and something that breaks it

A **reverse proxy** is a program that stands in front of a service. It takes each request, passes it on, and gives the answer back. `FaultProxy` is a small one. It passes everything on unchanged, until you tell it what should go wrong. A thing that goes wrong is called a **fault**.

The service itself never notices. So this notebook is safe on a service that you share with others: only your own requests fail.
"""

# %% tags=["nbval-check-output"]
from foundry_lab import ensure_service
from foundry_lab.faults import KINDS, Fault, FaultProxy

service_url = ensure_service()
proxy = FaultProxy(service_url, seed=4).start()
print(len(KINDS), "kinds of fault:", ", ".join(KINDS))

# %% [markdown]
"""
First a client **without** protection. (`metrics=False` turns off its counters, which notebook 5 shows.) `script` says what the next requests meet. Here the next one gets the status 503, which means "not available now".
"""

# %% tags=["nbval-check-output"]
from foundry_lab import FoundryAPIClient
from foundry_lab.errors import FoundryError

bare = FoundryAPIClient(proxy.url, retries=0, breaker=False, metrics=False)
proxy.script(Fault("status", status=503))
try:
    await bare.complete("Say hello.", max_tokens=8)
except FoundryError as error:
    print(type(error).__name__, error.status)

# %% [markdown]
"""
One short failure of the service, and the call failed too. A person would have asked again.

Now the client with its usual settings, and a worse script: a 503, then a broken connection (`reset`), then no fault.
"""

# %% tags=["nbval-check-output"]
client = FoundryAPIClient(proxy.url)
proxy.script(Fault("status", status=503), "reset", None)
answer = await client.complete("Say hello.", max_tokens=8, temperature=0)
print(answer.attempts, "attempts, one answer")

# %% [markdown]
"""
Each time the client sends the request is an **attempt**. To send it again after a failure is a **retry**.

## The way of a request

Between your call and the service there are several protections, called **policies**. Follow the arrows. Below each box stands the error that you see if the request ends there.

![Five boxes in a row: deadline, retries, breaker, transport, service. A dashed arrow leads from the service back to retries: failed, and safe to send again. If a request ends at a box, you see: at the deadline RequestTimeoutError, at retries the last error, at the breaker CircuitOpenError, at the transport ServiceUnavailableError, at the service APIStatusError.](images/request_path.svg)
"""

# %% [markdown]
"""
The order matters. The **deadline** (the end of the time for a call) is outside, so it covers all attempts and the waiting between them. The breaker is inside the retries, so each attempt asks it again. The transport keeps connections open and uses them for the next request; such connections are called **pooled**.

## Retries

Several calls, while about one request in three fails. `rate=0.15` means: each request meets the fault with a chance of 15 in 100. `route` says for which requests: here only those for a completion.
"""

# %%
CHAT = "/v1/chat/completions"
proxy.set_faults(
    Fault("reset", rate=0.15, route=CHAT),
    Fault("status", rate=0.2, status=503, route=CHAT),
)

# %% [markdown]
"""
This client may retry six times. The proxy keeps a **log**: a list of what happened to each request.
"""

# %%
from foundry_lab import RetryPolicy

stubborn = FoundryAPIClient(proxy.url, retry=RetryPolicy(retries=6), breaker=False, metrics=False)
proxy.log.clear()
for number in range(CALLS):
    await stubborn.complete(f"Repeat: {number}", max_tokens=6)
proxy.clear()

# %% [markdown]
"""
Each row is a call, each bar an attempt. (All attempts of a call have the same `X-Request-Id` header. So the proxy knows which belong together.) Find the rows with more than one bar, and look at the waits between the bars.
"""

# %%
from foundry_lab import plots

plots.attempts([entry for entry in proxy.log if entry.path == CHAT])

# %% [markdown]
"""
Every call came back with an answer, or the cell that sends them would have stopped with an error. The wait before a retry is random: between zero and a limit that doubles with each attempt. So a later wait can be shorter than an earlier one. The next section tells why.

Not everything should be sent again:

- A **400** means that the request is wrong. It will still be wrong the next time.
- A request that ran into its time limit is not sent again either. The service may still be working on it, and would then have to do the work twice. The fault `black_hole` takes a request and never answers.

How often is each of them sent?
"""

# %% tags=["nbval-check-output"]
for fault in (Fault("status", status=400), Fault("black_hole")):
    proxy.log.clear()
    proxy.script(fault, fault, fault)
    try:
        await client.complete("Say hello.", timeout=2)
    except FoundryError as error:
        print(f"{fault!s:11} sent {len(proxy.log)} time, {type(error).__name__}")
proxy.clear()

# %% [markdown]
"""
A service that has too much to do answers 429. It may say when to come back, in the header `Retry-After`. Here it says: in one second.
"""

# %% tags=["nbval-check-output"]
proxy.script(Fault("status", status=429, retry_after=1))
answer = await client.complete("Say hello.", max_tokens=4)
print(answer.attempts, "attempts; waited at least a second:", answer.latency_s >= 1)

# %% [markdown]
"""
The client does as it is told, if the wait fits its own limits.
"""

# %% exercise="4.1"

# %% [markdown]
"""
## Why the waits are random

Think of fifty clients that fail at the same moment, because the service was started again. If all of them wait for the same time, all of them come back at the same moment.

We try both. First fixed waits: 0.2 s, 0.4 s, 0.8 s, and so on. (To wait longer each time is called **backoff**.) Then random ones: each between zero and the fixed one. This is called **full jitter**.
"""

# %%
class FixedWaits(RetryPolicy):
    def wait_s(self, error, retry):
        return self.backoff_initial_s * 2 ** (retry - 1)

# %%
import asyncio


async def herd(policy):
    proxy.log.clear()
    crowd = [FoundryAPIClient(proxy.url, retry=policy, breaker=False, metrics=False) for _ in range(CROWD)]
    await asyncio.gather(*(each.loaded_models() for each in crowd), return_exceptions=True)
    await asyncio.gather(*(each.close() for each in crowd))
    return sorted(entry.at_s for entry in proxy.log)[CROWD:]  # without the first attempts

# %%
proxy.set_faults(Fault("status", status=503))
runs = {
    "fixed waits": await herd(FixedWaits(retries=4)),
    "full jitter": await herd(RetryPolicy(retries=4)),
}
proxy.clear()

# %% [markdown]
"""
Each bar counts the requests that arrive within a short time. Compare the highest bar of the two panels.
"""

# %%
plots.arrivals(runs)

# %% [markdown]
"""
A high bar is many clients at the same moment. That is hard on a service that has just started. The number of requests is the same in both panels. Are they more spread out in the lower one? (On a slow or busy machine the bars of the upper panel are wider, because sending fifty requests takes some time itself.)
"""

# %% exercise="4.2"

# %% [markdown]
"""
## One budget of time

A limit for each attempt is not enough: four attempts of 30 seconds are two minutes. The client's `timeout` is one budget for the whole call.

Here every request fails, and fifty retries are allowed. `BUDGET_S` is the budget.
"""

# %%
impatient = FoundryAPIClient(
    proxy.url, retry=RetryPolicy(retries=50, backoff_initial_s=0.3), breaker=False, metrics=False
)
await impatient.loaded_models()  # the way to the service is known now
proxy.set_faults(Fault("status", status=503, route=CHAT))

# %%
proxy.log.clear()
for _ in range(4):
    try:
        await impatient.complete("Say hello.", timeout=BUDGET_S)
    except FoundryError as error:
        print(type(error).__name__)
proxy.clear()

# %% [markdown]
"""
Look at the dashed line: does any attempt begin after it?
"""

# %%
plots.attempts([entry for entry in proxy.log if entry.path == CHAT], deadline_s=BUDGET_S)

# %% [markdown]
"""
If the next wait would be longer than what is left of the budget, the call ends at once, with the last error of the service. To wait longer would not help.

What if an attempt is *under way* when the budget ends? It is cut off, and `.phase` says which limit it was. `drip` sends the answer a few bytes at a time.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.errors import RequestTimeoutError

for kind in ("black_hole", "drip"):
    proxy.set_faults(Fault(kind, route=CHAT))
    try:
        await impatient.complete("Say hello.", max_tokens=8, timeout=0.8)
    except RequestTimeoutError as error:
        print(f"{kind:10} phase {error.phase!r}")
proxy.clear()

# %% [markdown]
"""
Both end at the limit. That is not so with every client. The `timeout` of `requests` is a limit for each *read*: it starts again with every piece that arrives. Here are the same fault and the same 0.8 seconds, with the list of the models as the answer. How long does it take?
"""

# %%
import time

import requests


def read_with_requests():
    with requests.Session() as http:
        http.trust_env = False  # use no company proxy: this is our own machine
        started = time.perf_counter()
        http.get(proxy.url + "/v1/models", timeout=0.8)
        return time.perf_counter() - started

# %%
proxy.set_faults(Fault("drip", delay_s=0.2))
print(f"timeout=0.8, and it took {await asyncio.to_thread(read_with_requests):.1f} s")
proxy.clear()

# %% [markdown]
"""
If it took longer than 0.8 s, you have seen it: no single read was slow, so no limit was reached. Only a limit on the whole call protects you.
"""

# %% exercise="4.3"

# %% [markdown]
"""
## The circuit breaker

Retries help against a short failure. If a service is *down*, they do harm: every caller waits, and sends even more. A **circuit breaker** counts failures. If there are too many, it refuses further calls at once, without sending them. It has three states:

| state | calls are |
|---|---|
| closed | sent, as usual |
| open | refused at once |
| half-open | refused, but for one: a **probe**, to see whether the service is back |
"""

# %%
from foundry_lab import CircuitBreaker

breaker = CircuitBreaker(failure_threshold=4, open_s=1.0)
transitions = []
breaker.add_listener(transitions.append)
guarded = FoundryAPIClient(proxy.url, retries=0, breaker=breaker, metrics=False)

# %% [markdown]
"""
Steady traffic: a small request, a short pause, the next request. `call` notes when each began and ended, and how.
"""

# %%
from foundry_lab.errors import CircuitOpenError


async def call(client, outcomes):
    began, word = time.monotonic(), "ok"
    try:
        await client.complete("Hi", max_tokens=1, timeout=5)
    except CircuitOpenError:
        word = "open"
    except FoundryError:
        word = "failed"
    outcomes.append((began, time.monotonic(), word))

# %%
async def traffic(client, outcomes, seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await call(client, outcomes)
        await asyncio.sleep(0.05)

# %% [markdown]
"""
Two seconds without a fault, three in which every connection is broken, and three without a fault again.
"""

# %%
outcomes = []
await traffic(guarded, outcomes, 2)
proxy.set_faults("reset")
dark_from = time.monotonic()
await traffic(guarded, outcomes, 3)
proxy.clear()
dark = (dark_from, time.monotonic())
await traffic(guarded, outcomes, 3)

# %% [markdown]
"""
Above: the breaker's state. Below: the calls, at the moment they ended. Find the place where it opens. How many calls were sent and failed before? And what happens once a second while it is open?
"""

# %%
plots.breaker_timeline(outcomes, transitions, dark=dark)

# %% [markdown]
"""
The same in words. The reason stands after each change.
"""

# %%
for change in transitions:
    print(f"{change.at_s - outcomes[0][0]:5.2f} s  {change.old} -> {change.new}: {change.reason}")

# %% [markdown]
"""
How to read it: after `failure_threshold` failures in a row it opens. After `open_s` seconds it becomes half-open, and lets exactly **one** call through. If that one fails, it opens again. If it succeeds, it closes, and all calls are sent again.

A `CircuitOpenError` helps the caller. It comes *at once*, so the program can show an older answer, or say "please try again in a moment". `.retry_after` tells in how many seconds.
"""

# %% exercise="4.4"

# %% [markdown]
"""
## Done

Close the proxy and the clients. The service goes on, for the other notebooks; `foundry-lab stop` in a terminal ends it.
"""

# %%
proxy.close()
for each in (bare, client, stubborn, impatient, guarded):
    await each.close()

# %% [markdown]
"""
## Take away

1. Retry what may work the next time, after a random wait. Never retry a wrong request, or an answer that took too long.
2. A call needs one budget of time, for all attempts and all waits.
3. If a service is down, a circuit breaker says so at once, and leaves the service alone.

**Next:** [5 · Production, part 2: operations](05_operations.ipynb). The service is killed and comes back, you watch it, and your own client is tested.
"""
