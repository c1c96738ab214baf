# %% [markdown]
"""
# 3 · Batch: many prompts, nothing lost

Sixty messages to sort, ten thousand texts to shorten: work for a night, not for a chat.

**After this notebook you can**

- measure whether more requests at once make your machine faster;
- use Little's law to predict how long one request waits;
- run a batch that goes on where it was stopped;
- get answers in a fixed form, and measure how many are right;
- keep answers in a cache, and say what a thousand of them cost.

**Time:** about 65 minutes: 20 to read and run, 45 for the five exercises. (This is computed, not measured; [0 · Start](00_start.ipynb) says how.) Running the cells takes about two minutes.

**You need:** [1 · Basic](01_basic.ipynb), and `await` and `gather` from [0 · Start](00_start.ipynb). Words: [glossary](glossary.md).
"""

# %% [markdown]
"""
First, what is installed.
"""

# %%
import platform
from importlib.metadata import version

for package in ("foundry-lab", "foundry-local-sdk", "aiohttp", "tqdm"):
    print(f"{package:18} {version(package)}")
print(f"{'python':18} {platform.python_version()}")

# %% [markdown]
"""
You may change these, and run the notebook again. On a slow machine, take fewer `PROMPTS`, ten at least, or fewer `TOKENS`. `MESSAGES` is a file beside this notebook. Open it and add a line with a message of your own, a new id and one of the labels `praise`, `complaint` or `question`: it will be in the results.
"""

# %% tags=["parameters"]
from pathlib import Path

MESSAGES = Path("data/messages.csv")
PROMPTS = 20  # how many are sent in a measurement: 10 to 20
TOKENS = 16  # at most in an answer to one of them
ROUNDS = 3  # how often it is repeated
WATTS = 30  # what your machine uses at work; a laptop uses about 30
PRICE_PER_KWH = 0.30  # in your currency

# %% [markdown]
"""
A batch writes files. The ones of this notebook go into a temporary folder, which the last cell deletes. (In a `.jsonl` file, each line is JSON.)
"""

# %%
import tempfile

folder = tempfile.TemporaryDirectory(prefix="batch-")
output = Path(folder.name) / "verdicts.jsonl"

# %% [markdown]
"""
Now the client, and one short request, which isn't measured. It also shows which model answers.
"""

# %%
from foundry_lab import FoundryAPIClient

client = FoundryAPIClient()
hello = await client.complete("Say hello.", max_tokens=8, temperature=0)
print(hello.model)

# %% [markdown]
"""
## One after the other

The simplest batch is a loop. Here are the prompts. Their answers are short.
"""

# %%
subjects = ["river", "mountain", "engine", "garden", "teacher", "market", "harbour", "winter", "key", "sea"]
prompts = [f"{what} a {name}." for what in ("Describe", "Name one use of") for name in subjects][:PROMPTS]
options = {"max_tokens": TOKENS, "temperature": 0}

# %% [markdown]
"""
A run gives two kinds of numbers: how long *everything* took, and how long *each* prompt took (its latency).
"""

# %%
import asyncio
import time


async def one_by_one():
    started = time.perf_counter()
    answers = [await client.complete(prompt, **options) for prompt in prompts]
    return time.perf_counter() - started, [answer.latency_s for answer in answers]

# %% [markdown]
"""
`show` prints both, over all rounds. p50: half of the prompts were faster. p95: one in twenty was slower.
"""

# %%
from foundry_lab.metrics import percentile


def show(name, runs):
    seconds = [whole_s for whole_s, _ in runs]
    each = [latency_s for _, latencies in runs for latency_s in latencies]
    print(f"{name:12} everything {min(seconds):.1f} to {max(seconds):.1f} s", end=", ")
    print(f"one prompt p50 {percentile(each, 50):.2f} s, p95 {percentile(each, 95):.2f} s")

# %%
loop_runs = [await one_by_one() for _ in range(ROUNDS)]
show("one by one", loop_runs)

# %% [markdown]
"""
Compare p50 and p95. If they are close, each prompt had the machine to itself. If p95 is much larger, something else was at work at times.

## All at once

`asyncio.gather` starts all the requests immediately. Will everything be done sooner? And how long will one prompt take?
"""

# %%
async def all_at_once():
    started = time.perf_counter()
    answers = await asyncio.gather(*(client.complete(prompt, timeout=300, **options) for prompt in prompts))
    return time.perf_counter() - started, [answer.latency_s for answer in answers]

# %%
gather_runs = [await all_at_once() for _ in range(ROUNDS)]
show("one by one", loop_runs)
show("all at once", gather_runs)

# %% [markdown]
"""
Compare the two lines.

- *Everything*: are the two ranges about equal? Then the processor was already busy all the time with one request, and more at once can't help. If *all at once* is clearly faster, the loop left the processor idle between its requests, or other programs took it then.
- *One prompt*: look how near its p50 is to *everything*. The service works on all of the prompts in turns, so nearly every prompt waits nearly the whole time.

This matters, because requests have limits on time. Give each request half of that time as its limit: much more than a prompt needs when it is alone. How many fail? (`breaker=False` turns off a protection, so that every request is sent. Notebook 4 explains it.)
"""

# %%
gather_s = sorted(whole_s for whole_s, _ in gather_runs)[len(gather_runs) // 2]
limit_s = gather_s / 2
async with FoundryAPIClient(breaker=False, metrics=False) as hurried:
    asked = (hurried.complete(prompt, timeout=limit_s, **options) for prompt in prompts)
    results = await asyncio.gather(*asked, return_exceptions=True)
failed = [result for result in results if isinstance(result, Exception)]
print(f"{len(failed)} of {len(results)} failed:", {type(each).__name__ for each in failed})

# %% [markdown]
"""
Each failure is work that was begun and thrown away. And the service doesn't know that nobody waits any more: it computes the answers to their end (notebook 2). So ask for one answer that is longer than all of them. When it comes, the others are done too.
"""

# %%
await client.complete("Count to fifty.", max_tokens=64, timeout=300)
print("the service is free again")

# %% exercise="3.1"

# %% [markdown]
"""
## The batch runner

`complete_batch` sends all the prompts, but only a few at a time: two, if you don't say otherwise. So the processor has work while one answer travels to you and the next request to it. It gets the same short limit. Look at *failed*.
"""

# %%
report = await client.complete_batch(prompts, timeout=limit_s, **options)
report

# %% [markdown]
"""
Here a request shares the processor with one other, not with all of them. The figure shows the run, prompt by prompt.
"""

# %%
from foundry_lab import plots

plots.batch_figure(report)

# %% [markdown]
"""
Left: each step up is a finished prompt. Look whether the steps follow a straight line: then the service works steadily. Right: how long each prompt took. Points far above the others are prompts that had to wait.

## How many at once?

Measure it: the same prompts with 1, 2, 4, 8 and 16 at once, in rounds. (`concurrency` is the number at once.)
"""

# %%
AT_ONCE = (1, 2, 4, 8, 16)
quiet = options | {"progress": False, "timeout": 300}
points = {number: [] for number in AT_ONCE}
for _ in range(ROUNDS):
    for number in AT_ONCE:
        run = await client.complete_batch(prompts, concurrency=number, **quiet)
        points[number].append(plots.SweepPoint.of(number, run))

# %% [markdown]
"""
First the numbers, from the lowest round to the highest. **Throughput** is how much is done in a second, here tokens. Look down the column: does throughput grow by more than its own spread?
"""

# %%
print("at once   tokens/s      mean latency (s)")
for number, rounds in points.items():
    speeds = sorted(point.tokens_per_s for point in rounds)
    waits = sorted(point.mean_s for point in rounds)
    print(f"{number:7}   {speeds[0]:4.0f} to {speeds[-1]:4.0f}  {waits[0]:.2f} to {waits[-1]:.2f}")

# %% [markdown]
"""
Now as a picture, with the middle round of each.
"""

# %%
def middle_of(rounds):
    return sorted(rounds, key=lambda point: point.tokens_per_s)[len(rounds) // 2]


middle = [middle_of(rounds) for rounds in points.values()]
plots.sweep_figure(middle)

# %% [markdown]
"""
How to read it. Left: where the curve is flat, more requests at once bring nothing. (From 1 to 2 it may rise or fall a little. A large graphics card rises for longer, because it works on several requests in parallel. And if the spread in the table is large, other programs were at work; then don't trust the curve.) Right: the latency. The dashed line isn't fitted to the points. It is **Little's law**, which holds for everything that waits in a line, in a shop too:

> **requests at once = throughput × mean latency**

So where throughput can't grow, latency must. Divide by throughput, and you can predict the latency:
"""

# %%
for point in middle:
    law_s = point.concurrency / point.items_per_s
    print(f"{point.concurrency:3} at once: measured mean {point.mean_s:.2f} s, by the law {law_s:.2f} s")

# %% [markdown]
"""
Compare the two numbers of each line. Where they differ, remember: the law speaks of the requests that are *really* under way, and at the end of a run these are fewer than allowed. So with many at once, the law may give more than you measure.
"""

# %% exercise="3.2"

# %% [markdown]
"""
The runner can also look for the number by itself. It adds one at a time, and halves when latency gets worse.
"""

# %%
adaptive = await client.complete_batch(prompts * 2, concurrency="adaptive", **quiet)
mean_s = sum(sample.latency_s for sample in adaptive.samples) / len(adaptive.samples)
print(f"{adaptive.items_per_s:.1f} items/s, mean latency {mean_s:.2f} s")
print(f"by Little's law: about {adaptive.items_per_s * mean_s:.1f} at once, of at most 16")

# %% [markdown]
"""
If the number is low, the runner found that more requests at once only made each other wait. Compare it with your table: from which line on does throughput stop growing?

## A real task

Sixty messages to shops, restaurants, hotels, a library. Each is a praise, a complaint or a question. They are in a small CSV file, with the right label, so that we can grade the model's work.
"""

# %%
import csv

from foundry_lab import workbook

source = Path(MESSAGES)
if not source.is_file():
    print(f"There is no {source} in the folder where this notebook runs, so the course's own copy is read.")
    source = workbook.folder() / "data" / "messages.csv"
with source.open(encoding="utf-8", newline="") as file:
    messages = list(csv.DictReader(file))

# %% tags=["nbval-check-output"]
for message in messages[:4]:
    print(message["id"], message["label"], "|", message["text"])
print(len(messages), "messages")

# %% [markdown]
"""
The answer must be one of three words, and nothing else. `response_model` says so: the service is told to keep to it, and the client checks each answer. A `msgspec.Struct` is a record with types. (A pydantic model, a dataclass or a JSON schema works too.)
"""

# %%
from typing import Literal

import msgspec


class Verdict(msgspec.Struct):
    label: Literal["praise", "complaint", "question"]

# %% [markdown]
"""
A **template** makes a prompt from each row: `{text}` is replaced by the row's column `text`. The column `id` gives each result its name.
"""

# %%
task = {
    "template": "Classify the customer's message as praise, complaint or question.\n\nMessage: {text}",
    "response_model": Verdict,
    "max_tokens": 20,
    "temperature": 0,
}

# %% exercise="3.3"

# %% [markdown]
"""
### Stopped halfway

A long batch will be interrupted one day: by Ctrl-C, by an error, by a power cut. Here the next cell stops it as soon as twenty results are in the file. (In a notebook, the ■ button stops it too.)
"""

# %%
def results_in_file():
    return len(output.read_text(encoding="utf-8").splitlines()) if output.exists() else 0


run = asyncio.create_task(client.complete_batch(source, output=output, progress=False, **task))
while results_in_file() < 20 and not run.done():
    await asyncio.sleep(0.02)
run.cancel()
await asyncio.wait([run])
print(results_in_file(), "of", len(messages), "results are in the file")

# %% [markdown]
"""
Read the message. What was finished is in the file, and will not be asked again. What was under way when it stopped will be. To go on, run **the same call** again. Look at *done before*.
"""

# %%
report = await client.complete_batch(source, output=output, **task)
report

# %% [markdown]
"""
*Done* means: the same `id` **and** the same request. If you change the template, everything runs again.

Each line of the file is one result. Count them: is every message there, and each once?
"""

# %% tags=["nbval-check-output"]
import json

lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
print(len(lines), "lines,", len({line["custom_id"] for line in lines}), "different ids")
print(list(lines[0]), list(lines[0]["response"]), sep="\n")

# %% [markdown]
"""
The names are those of OpenAI's Batch API, so other tools can read the file.
"""

# %% exercise="3.4"

# %% [markdown]
"""
### How good is it?

Compare the model's words with the right labels. In the table, a row is the truth and a column is what the model said. So the right answers are on the diagonal, from the upper left to the lower right.
"""

# %%
labels = ["praise", "complaint", "question"]
truth = {message["id"]: message["label"] for message in messages}
table = [[0] * len(labels) for _ in labels]
answered = [result for result in report.results() if result.completion]
for result in answered:
    said = result.completion.parsed.label
    table[labels.index(truth[result.custom_id])][labels.index(said)] += 1

# %%
right = sum(table[n][n] for n in range(len(labels)))
plots.confusion_figure(labels, table, f"{right} of {len(messages)} right")

# %% [markdown]
"""
Every answer in the table has the right *form*. Is it also the right *word*? Somebody who only guesses gets about one third right. Is the model better than that? Look for a column that is too full: a word that the model likes too much.

A check of the form says nothing about the content. Only a sample with known answers does. So grade sixty before you run ten thousand.
"""

# %% exercise="3.5"

# %% [markdown]
"""
## Asked before?

With temperature 0, the same request has the same answer. So it needn't be asked twice. A **cache** keeps answers. `cache=True` keeps them as long as this process runs; a file name keeps them for longer.
"""

# %%
async with FoundryAPIClient(cache=Path(folder.name) / "answers.db") as cached:
    first = await cached.complete_batch(prompts[:10], **quiet)
    second = await cached.complete_batch(prompts[:10], **quiet)
    stats = cached.cache.stats()
    cached.cache.close()

# %% tags=["nbval-check-output"]
print("first run: ", first.cached, "of", first.done, "from the cache")
print("second run:", second.cached, "of", second.done, "from the cache")
print(stats.hits, "hits,", stats.misses, "misses,", stats.entries, "answers kept")

# %%
print(f"{first.wall_s:.2f} s, then {second.wall_s:.3f} s")

# %% [markdown]
"""
The second run only looked the answers up: each was a *hit*, an answer that the cache has. A *miss* must be asked. An answer is found again only if the model and *every* setting are the same. A request with chance in it (a temperature and no seed) is never kept, and neither is an error.

## What do 1,000 items cost?

Your own machine sends no bill. But it takes time and electricity. The measurement gives the time; the first cells of this notebook hold your machine's power and your price.
"""

# %%
items_per_s = max(point.items_per_s for point in middle)
hours = 1000 / items_per_s / 3600
energy_kwh = hours * WATTS / 1000
print(f"1,000 such items take {hours * 60:.1f} min and {energy_kwh * 1000:.1f} Wh,")
print(f"which cost {energy_kwh * PRICE_PER_KWH:.4f} of your currency")

# %% [markdown]
"""
These answers had at most `TOKENS` tokens. Longer ones take longer (notebook 1). What you pay with is mostly time: at this speed, how many items can you do in one night?

A batch also runs in a terminal. There, Ctrl-C prints the command that goes on:

```
foundry-lab batch data/messages.csv -o verdicts.jsonl --template "Classify: {text}" --temperature 0
```

## Done

Close the client, and delete the temporary folder.
"""

# %%
await client.close()
folder.cleanup()

# %% [markdown]
"""
## Take away

1. When the processor is busy all the time, more requests at once only wait longer. Little's law says how long.
2. Write each result to disk at once, under a name. Then a batch can stop at any time and go on.
3. A right form is not a right answer. Grade a sample first.

**Next:** [4 · Production](04_production.ipynb): the service breaks, on purpose.
"""
