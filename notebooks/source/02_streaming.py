# %% [markdown]
"""
# 2 · Streaming: the same seconds, a shorter wait

The last notebook ended with a line: the longer the answer, the longer the wait. Streaming doesn't make the answer come faster. It shows each token as soon as it is written. So a person waits only for the first one.

**After this notebook you can**

- read a streamed answer byte by byte, and say what can go wrong with it;
- measure the time to the first token and the time between tokens, and describe them with p50 and p95;
- stop an answer so that the service really stops;
- say what happens when two people ask at once;
- choose the four limits on time.

**Time:** about 70 minutes: 20 to read and run, 50 for the five exercises. (This is computed, not measured; [0 · Start](00_start.ipynb) says how.) Running the cells takes about one minute.

**You need:** [1 · Basic](01_basic.ipynb). Words: [glossary](glossary.md).
"""

# %% [markdown]
"""
First, what is installed.
"""

# %%
import platform
from importlib.metadata import version

for package in ("foundry-lab", "foundry-local-sdk", "aiohttp", "requests", "ipywidgets"):
    print(f"{package:18} {version(package)}")
print(f"{'python':18} {platform.python_version()}")

# %% [markdown]
"""
You may change these numbers, and run the notebook again.
"""

# %% tags=["parameters"]
REQUESTS = 10  # whose times are compared
ROUNDS = 3  # how often a measurement is repeated
LONG_ANSWER = 800  # tokens of an answer that we don't wait for; more on a fast machine

# %% [markdown]
"""
Now a client, and the name of the model in memory. `is_mine` says whether the service is your own: on a shared one, this notebook leaves out what can't be measured there.
"""

# %%
import os

from foundry_lab import FoundryAPIClient, engine, ensure_service, plots

endpoint = ensure_service()
is_mine = engine.service_status() is not None and not os.environ.get("FOUNDRY_ENDPOINT")
client = FoundryAPIClient()
model = (await client.loaded_models())[0]

# %% [markdown]
"""
## The bytes as they come

A streamed answer is *one* HTTP response. Its body comes in pieces. To get one, say `"stream": True` in the request.
"""

# %%
import requests

http = requests.Session()
http.trust_env = False  # use no company proxy: this is our own machine
body = {
    "model": model,
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 4,
    "temperature": 0,
    "stream": True,
}

# %% [markdown]
"""
Send it and look at the beginning of what arrives. Find the lines that begin with `data:`, and the empty lines between them.
"""

# %%
with http.post(endpoint + "/v1/chat/completions", json=body, stream=True, timeout=30) as response:
    print(response.status_code, response.headers["Content-Type"])
    raw = b"".join(response.iter_content(None))

print(raw.decode()[:700])

# %% [markdown]
"""
These are **server-sent events**: a line that begins with `data:`, then an empty line. The first event only names the role. Then comes about one event for each token.

(Foundry Local may send the value of `Content-Type` twice, as `text/event-stream, text/event-stream`. A client must accept that.)

Now the end. What do the last two events say?
"""

# %%
print(raw.decode()[-420:])

# %% [markdown]
"""
An event with a `finish_reason`, and then `[DONE]`, which isn't JSON. A stream that ends without them was cut off.

## Decoded by hand

For a stream without surprises, five lines are enough: cut at the empty lines, take the events with JSON, read it, and take the text out of the `delta` (the piece that is new).

(If the model is slow to begin, a line such as `: keep-alive` may come first. A line that begins with a colon is a comment. It only says that somebody is still there.)
"""

# %%
import json

words = []
for event in raw.decode().split("\n\n"):
    if event.startswith("data: {"):
        for choice in json.loads(event.removeprefix("data: "))["choices"]:
            words.append(choice["delta"].get("content", ""))
words

# %% [markdown]
"""
This works because the whole body was there. A real reader gets the body in pieces, and a piece can end anywhere: in the middle of an event, of a word, even of one letter. The letter `é` is two bytes. Here is an event with an `é` in it, cut between these two bytes.
"""

# %% tags=["nbval-check-output"]
event = 'data: {"choices":[{"delta":{"content":"café"}}]}\n\n'.encode()
middle = event.index("é".encode()) + 1
front, back = event[:middle], event[middle:]
try:
    front.decode()
except UnicodeDecodeError as error:
    print(error)

# %% [markdown]
"""
Half a letter can't be decoded. So a reader must wait for the whole event before it decodes anything. The client's decoder does so. Give it the two halves, and look at what comes out each time.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.protocol import SSEDecoder

decoder = SSEDecoder()
print("after the front:", [each.data for each in decoder.feed(front)])
print("after the back: ", [each.data for each in decoder.feed(back)])

# %% [markdown]
"""
Nothing at first, and then the whole event. The same must hold for any cut. Here is the answer from above, cut into pieces of seven bytes.
"""

# %% tags=["nbval-check-output"]
whole = [each.data for each in SSEDecoder().feed(raw)]
decoder = SSEDecoder()
pieces = [each.data for i in range(0, len(raw), 7) for each in decoder.feed(raw[i : i + 7])]
print("the same events:", pieces == whole)

# %% [markdown]
"""
However the bytes are cut, the events are the same.

There is one more trap. If a streamed request is wrong, Foundry Local still answers with status 200, "it worked". The error is inside the stream. The next request asks for 0 tokens, which is not allowed.
"""

# %% tags=["nbval-check-output"]
bad = http.post(endpoint + "/v1/chat/completions", json=body | {"max_tokens": 0}, timeout=30)
print("status", bad.status_code)
print("error inside:", b'"error"' in bad.content)

# %% [markdown]
"""
A client that looks only at the status takes this for an empty answer. The lab's client looks inside, and raises the error.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.errors import FoundryError

try:
    async for chunk in client.stream_complete("Name three colours.", max_tokens=0):
        print(chunk.content)
except FoundryError as error:
    print(type(error).__name__, "-", error.message)

# %% exercise="2.1"

# %% [markdown]
"""
## With the client

`stream_complete` gives one **chunk** (a piece of the answer) after another. Look at the text while the cell runs: it grows.
"""

# %%
stream = client.stream_complete("Why is the sky blue?", max_tokens=80, temperature=0)
async for chunk in stream:
    print(chunk.content, end="", flush=True)

# %% [markdown]
"""
The stream keeps what it saw. Two times matter to a person:

- the **time to first token** (TTFT): the wait before anything happens;
- the **inter-token latency**: the time from one token to the next.

**Throughput** is how much is done in a second; here, tokens.
"""

# %%
print(f"time to first token  {stream.ttft_s * 1000:.0f} ms")
print(f"inter-token latency  {stream.inter_token_s.mean() * 1000:.1f} ms on average")
print(f"throughput           {stream.tokens_per_s:.0f} tokens/s")
print(f"tokens               {stream.usage.completion_tokens}, finish_reason {stream.finish_reason!r}")

# %% [markdown]
"""
Now as a picture: each small line is a token. Look at the space before the first one, and at how regular the others are.
"""

# %%
plots.token_timeline({"one answer": stream.arrivals_s})

# %% [markdown]
"""
The space before the first token is **prefill**: the model reads the whole prompt. The rest is **decode**: one token after another, each with about the same work. Where a gap between two tokens is much wider than the others, another program probably used the processor.

One request says little. Several show how much the times differ.
"""

# %%
ttfts, gaps = [], []
for number in range(REQUESTS):
    stream = client.stream_complete(
        f"Tell me fact number {number} about the sea.", max_tokens=40, temperature=0
    )
    async for chunk in stream:
        pass
    ttfts.append(stream.ttft_s)
    gaps.extend(stream.inter_token_s)

# %% [markdown]
"""
The figure marks two values of each latency. **p50**: half of the values are smaller (it is also called the median). **p95**: 95 of 100 are smaller, so one in twenty is worse. Look how far apart they are.
"""

# %%
plots.latency_distributions(ttfts, gaps)

# %% [markdown]
"""
If p50 and p95 are close, nearly everybody waits for about the same time. If they are far apart, some people wait much longer than most. An average would hide that. So latencies are given as p50 and p95, here and in the next notebooks. (The left side has few values, so its p95 lies near the slowest of them. The right side has many more.)
"""

# %% exercise="2.2"

# %% [markdown]
"""
## What makes the first token late?

The next cell sends short and long prompts, in rounds, and asks for short answers. It notes both latencies. Each prompt begins with another number, because a service may remember the beginning of a prompt that it has just read.
"""

# %%
lengths, firsts, steady = [], [], []
for round_ in range(ROUNDS):
    for count in (5, 50, 100, 200, 300, 400):
        prompt = f"({round_}-{count}) " + "The sea is wide and blue. " * (count // 6) + "What is it about?"
        stream = client.stream_complete(prompt, max_tokens=24, temperature=0)
        async for chunk in stream:
            pass
        lengths.append(stream.usage.prompt_tokens)
        firsts.append(stream.ttft_s)
        steady.append(stream.inter_token_s.mean())

# %% [markdown]
"""
Left: the time to the first token. Right: the time for each later token. Which of the two grows with the prompt? And is the growth larger than the spread, the distance between points of one length?
"""

# %%
plots.prefill_and_decode(lengths, firsts, steady)

# %% [markdown]
"""
What to expect, and why: before the first token the model must read the whole prompt. So the left points should rise with its length. Afterwards the length matters much less. The right points may rise a little, because the model looks back on more text. Do yours show it? If the points of one length lie far apart, the machine had other work: run the measurement again.

In a chat the whole conversation is sent with each question (notebook 1). If your left points rise, you now know why a long chat feels slow: each question has more to read.

## Stop early

A person reads two sentences and closes the page. Does the service notice? The operating system can tell how much processor time (CPU time) the service's process has used.
"""

# %%
import asyncio

import psutil

pid = (await client.health_check()).pid


def cpu_seconds():
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system

# %% [markdown]
"""
Ask for up to 2000 tokens, and leave after twenty. Leaving the `async with` block closes the connection. Then wait one second, and measure the second after that.
"""

# %%
async def cpu_after_leaving():
    async with client.stream_complete("Write a very long story.", max_tokens=2000) as stream:
        async for chunk in stream:
            if len(stream.arrivals_s) >= 20:
                break
    await asyncio.sleep(1)
    used = cpu_seconds()
    await asyncio.sleep(1)
    return cpu_seconds() - used

# %%
if is_mine:
    stream_s = await cpu_after_leaving()
    print(f"stream: {stream_s:.2f} s of CPU in one second, after we left")
else:
    print("left out: on a shared service, other people's questions use the processor too")

# %% [markdown]
"""
A number near 0 means that the service has stopped writing. A number near 1 means that one processor core worked all the time, near 2 that two did. Now the same with a **plain** request, one that isn't streamed: we wait for half a second and then hang up.
"""

# %%
import contextlib
import time

long_body = body | {"messages": [{"role": "user", "content": "Write a very long story."}]}
long_body |= {"stream": False, "max_tokens": LONG_ANSWER}


def cpu_after_giving_up():
    with contextlib.suppress(requests.Timeout):
        http.post(endpoint + "/v1/chat/completions", json=long_body, timeout=0.5)
    used = cpu_seconds()
    time.sleep(1)
    return cpu_seconds() - used

# %%
if is_mine:
    plain_s = await asyncio.to_thread(cpu_after_giving_up)
    print(f"plain:  {plain_s:.2f} s of CPU in one second, after we left")

# %% [markdown]
"""
Compare the two numbers. The first should be near 0: the service notices that the stream's reader is gone, and stops. The second should be much higher: the service computes a plain answer to its end, though nobody waits for it. Everybody else shares the processor with it. (If the first isn't near 0, another program is using the service.)

So if you may want to stop an answer, stream it, and really close the connection. It isn't enough to stop reading.

The next cell waits until the service is quiet again.
"""

# %%
if is_mine:
    for _ in range(60):
        used = cpu_seconds()
        await asyncio.sleep(0.5)
        if cpu_seconds() - used < 0.1:
            break

# %% exercise="2.3"

# %% [markdown]
"""
## Two at once

Two people ask at the same moment. Are both served at the same time, or one after the other?
"""

# %%
async def read(prompt):
    stream = client.stream_complete(prompt, max_tokens=60, temperature=0)
    async for chunk in stream:
        pass
    return stream

# %% [markdown]
"""
First one stream alone, then two together, in rounds. For each round we note how much longer a token takes with two than with one.
"""

# %%
factors = []
for _ in range(ROUNDS):
    alone = await read("Describe the sea.")
    left, right = await asyncio.gather(read("Describe the sea."), read("Describe a forest."))
    together_s = (left.inter_token_s.mean() + right.inter_token_s.mean()) / 2
    factors.append(together_s / alone.inter_token_s.mean())

# %%
plots.token_timeline(
    {
        "alone": alone.arrivals_s,
        "together, first": left.arrivals_s,
        "together, second": right.arrivals_s,
    },
    title="One stream alone, two streams together (the last round)",
)

# %% [markdown]
"""
Look at the lower two rows: do both grow at the same time, or does one wait for the other to end? And how close together are their tokens, compared with the first row? The numbers of all rounds:
"""

# %%
print("time for a token, two together / one alone:", ", ".join(f"{each:.1f}" for each in sorted(factors)))

# %% [markdown]
"""
A value near 2 means: the two take turns, and each runs at half speed. A value near 1 would mean: the device writes both at the same time, as some large ones can. If your values differ much from each other, or are below 1, the machine was busy with something else.

[3 · Batch](03_batch.ipynb) measures this for many requests.
"""

# %% exercise="2.4"

# %% [markdown]
"""
## Four limits on time

A service can make you wait for ever in four ways. Each has its own limit, called a *phase* in the error:

| phase | the service … |
|---|---|
| `connect` | doesn't accept the connection |
| `first_token` | sends no first token |
| `idle` | is silent for too long between two tokens |
| `total` | takes too long in all |

Here the limit for the first token is a thousandth of a second. No model can keep that. Read the message to its end.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.errors import RequestTimeoutError

try:
    async for chunk in client.stream_complete("Write a very long story.", first_token_timeout=0.001):
        pass
except RequestTimeoutError as error:
    print(error.phase, "-", error)

# %% [markdown]
"""
The message says what you could try. One of the things it names is `on_stall="fallback"`: ask once more, without streaming.
"""

# %% exercise="2.5"

# %% [markdown]
"""
## A chat in the notebook

All of this in one panel: the conversation, a stop button, tokens per second. Run the cell, type a question, and press Enter. (If you only read this page: a conversation stands below.)
"""

# %%
from foundry_lab import widgets

panel = widgets.ChatPanel(temperature=0, max_tokens=60)
panel

# %% [markdown]
"""
Code can use the panel too. That is how this page can show you a conversation.
"""

# %%
panel.send("Name one animal.")
panel.wait(60)
panel.send("What does it eat?")
panel.wait(60)
panel.transcript()

# %% [markdown]
"""
The second question doesn't say which animal. Ask the same question without the conversation, and compare the two answers.
"""

# %%
print("with the conversation:", panel.messages[-1]["content"])
alone = await client.complete("What does it eat?", temperature=0, max_tokens=60)
print("alone:                ", alone.content)

# %% [markdown]
"""
The panel sends the whole conversation each time, as notebook 1 did by hand. The service itself remembers nothing. (Don't expect *good* answers from so small a model.)
"""

# %% tags=["nbval-check-output"]
print([message["role"] for message in panel.messages[:4]])

# %% [markdown]
"""
## Done

Close the client and the session. The panel stays open, so that you can go on with it; `panel.close()` ends it.
"""

# %%
await client.close()
http.close()

# %% [markdown]
"""
## Take away

1. A stream is a row of events in one response. It is complete only with a `finish_reason` and `[DONE]`, and an error may be inside it.
2. A person feels the time to first token. Look at it first when the prompt gets longer, or when more people ask.
3. To stop an answer, close the stream's connection. And set a limit for each phase of the wait.

**Next:** [3 · Batch](03_batch.ipynb): many questions, and nobody waits in front of the screen.
"""
