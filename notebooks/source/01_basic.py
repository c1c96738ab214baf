# %% [markdown]
"""
# 1 · Basic: one request, seen from all sides

**After this notebook you can**

- send a question to a language model with plain HTTP, and read the answer;
- say what temperature, seed, `max_tokens`, `stop` and the system prompt change;
- hold a conversation, although the service remembers nothing;
- load and unload a model;
- read three errors that everybody meets;
- predict how long an answer takes.

**Time:** about 50 minutes: 20 to read and run, 30 for the five exercises. (This is computed, not measured; [0 · Start](00_start.ipynb) says how.) Running the cells takes less than one minute.

**You need:** Foundry Lab, installed as its README says, and [0 · Start](00_start.ipynb) or some practice with Python. New words are explained where they first stand; the [glossary](glossary.md) has them all.
"""

# %% [markdown]
"""
First, what is installed. When a result puzzles you later, compare the versions first.
"""

# %%
import platform
from importlib.metadata import version

for package in ("foundry-lab", "foundry-local-sdk", "onnxruntime", "requests", "aiohttp"):
    print(f"{package:18} {version(package)}")
print(f"{'python':18} {platform.python_version()}")

# %% [markdown]
"""
The next cell holds what you may want to change. Change it and run the notebook again from the top.
"""

# %% tags=["parameters"]
QUESTION = "Why is the sky blue? Answer in one sentence."
ROUNDS = 3  # how often the last measurement is repeated

# %% [markdown]
"""
## What runs where

There are two processes (two running programs). Your code runs in the left one, the notebook's **kernel**: the Python that runs the cells. The model runs in the right one, the **service**. They talk over HTTP, the language of the web, at the address `127.0.0.1`. This address means "this machine": nothing leaves it.

![Two processes on this machine. The notebook kernel holds the foundry_lab client, or plain requests. The service process holds the Foundry Local REST service and, below it, ONNX Runtime GenAI with the model. Requests go over HTTP to 127.0.0.1 as JSON; answers come back as JSON, or as events one by one.](images/architecture.svg)
"""

# %% [markdown]
"""
`ensure_service()` gives the address of a running service. If there is none, it starts one. The first time on a new machine it also fetches the model and makes it ready (about 90 MB, once).
"""

# %%
from foundry_lab import ensure_service

endpoint = ensure_service()
endpoint

# %% [markdown]
"""
The number after the second colon is the **port**. Many programs on one machine can wait for requests; the port says which of them is meant. Yours may be another number, and it can change with every start. So ask for the address each time; don't write it into your code.

If you set the variable `FOUNDRY_ENDPOINT` before you start Jupyter, that service is used instead. You may then share it with other people. So this notebook looks whether the service is your own, and later leaves out what would disturb others.
"""

# %% tags=["nbval-check-output"]
import os

from foundry_lab import engine

is_mine = engine.service_status() is not None and not os.environ.get("FOUNDRY_ENDPOINT")
print("the service is my own:", is_mine)

# %% [markdown]
"""
## Is the service running?

Everything that the service can do has a URL. The simplest one is `/status`. We send a `GET` request: it asks for something and brings nothing along.

Look at three things: the status code, one header, and the names in the answer. A **header** is a line with a name and a value that stands before the content.
"""

# %%
import requests

http = requests.Session()
http.trust_env = False  # use no company proxy: this is our own machine
answer = http.get(endpoint + "/status", timeout=5)
print("status code ", answer.status_code)
print("Content-Type", answer.headers["Content-Type"])
print("names       ", sorted(answer.json()))

# %% [markdown]
"""
Status code 200 means "it worked". The header `Content-Type` says that the content is JSON.

`endpoints` are the service's addresses, `modelCachePath` is the folder of its models, and `pid` is the number of its process. (Print `answer.json()` to see the values of your machine.) There is nothing about memory. The next cell gets it in another way: the lab's client takes the `pid` and asks the operating system.
"""

# %%
from foundry_lab import SyncFoundryAPIClient

client = SyncFoundryAPIClient()


def in_mib(number):
    return "unknown" if number is None else f"{number:.0f} MiB"


health = client.health_check()
print("status ", health.status)
print("version", health.version)
print("memory ", in_mib(health.memory_usage))

# %% [markdown]
"""
In this memory are the runtime (the program that computes) and the model's **weights**: the numbers that the model has learned, also called its **parameters**. They stay in memory, so that a question needn't wait for the disk. How much is the model's share? A later cell unloads it and measures again. ("Unknown" means that the operating system doesn't tell, or that the service runs on another machine.)

## Which models?

`list_models()` asks which models the service can serve. Each model has two names. The **id** is exact: it names version and device. The **alias** is shorter, and for people. *Loaded* means: its weights are in memory now.
"""

# %%
for each in client.list_models():
    print("id    ", each.id)
    print("alias ", each.alias)
    print("loaded", each.loaded)

# %% [markdown]
"""
Foundry Local itself is strict: to load a model you must give the alias, and to ask it you must give the id. The lab's client takes both names everywhere.
"""

# %% tags=["nbval-check-output"]
loaded = client.loaded_models()
print(len(loaded), "model in memory:", loaded[0])
model = loaded[0]

# %% [markdown]
"""
## One completion, three ways

A language model continues a text. So its answer is called a **completion**. We ask for one in three ways.

### 1. Plain HTTP

A request is a URL, some headers, and a body. Read the body first: the model, the question, and two settings. `max_tokens` limits the length. `temperature` 0 means: no chance, always the most likely next word.
"""

# %%
body = {
    "model": model,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 60,
    "temperature": 0,
}
headers = {"Content-Type": "application/json"}

# %% [markdown]
"""
Now send it. `POST` is for requests that bring a body along.
"""

# %%
response = http.post(endpoint + "/v1/chat/completions", json=body, headers=headers, timeout=30)
reply = response.json()
print(response.status_code, reply["choices"][0]["message"]["content"])

# %% [markdown]
"""
Nothing else is needed: one request, one answer.

### 2. The sync client

*Sync* means: the call returns when the answer is there. The client sends the same request. It also finds the model's id, checks the answer, sets time limits, and tries again where that is safe.
"""

# %%
completion = client.complete(QUESTION, max_tokens=60, temperature=0)
print(completion.content)

# %% [markdown]
"""
### 3. The async client

The same names, with `await` before them ([0 · Start](00_start.ipynb) explains it). It is useful when one program waits for several answers at the same time, as later notebooks do.
"""

# %%
from foundry_lab import FoundryAPIClient

async with FoundryAPIClient() as async_client:
    awaited = await async_client.complete(QUESTION, max_tokens=60, temperature=0)

# %% [markdown]
"""
Three ways, one service, one model, and temperature 0. Are the three texts equal?
"""

# %% tags=["nbval-check-output"]
plain = reply["choices"][0]["message"]["content"]
print(plain == completion.content == awaited.content)

# %% [markdown]
"""
`True` means that the client adds nothing to the question and takes nothing from the answer.

## What an answer holds

First the JSON as it came. Find the text, the reason why it ended, and the token counts.
"""

# %%
import json

print(json.dumps({key: reply[key] for key in ("object", "model", "choices", "usage")}, indent=1))

# %% [markdown]
"""
The client's result has the same facts with short names, and adds how long it took.
"""

# %%
print("finish_reason    ", completion.finish_reason)
print("prompt tokens    ", completion.usage.prompt_tokens)
print("completion tokens", completion.usage.completion_tokens)
print(f"latency           {completion.latency_s:.2f} s")

# %% [markdown]
"""
- `finish_reason`: `stop` means that the model had finished.
- **Tokens** are the pieces that a model reads and writes. A token is a word or a part of one.
- The **prompt** is the text that the model is given. It has more tokens than you typed. The **chat template** adds some. It is the pattern that turns the list of messages into one text, which the model reads. It puts in marks for who speaks, and here a system prompt as well.
- **Latency** is the time from question to answer.

The client also *checks* what comes back. Something that is not a completion never reaches your code. Here is an answer without its choices, given to the function that the client uses.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.errors import ResponseFormatError
from foundry_lab.protocol import Reply, parse_completion

try:
    parse_completion(Reply(200, {"Content-Type": "application/json"}, b'{"choices": []}'), 0.0)
except ResponseFormatError as error:
    print(error)

# %% [markdown]
"""
The message names what is wrong, and what to look at. With plain HTTP the line `reply["choices"][0]` would raise an `IndexError`, which says nothing about the service.

## Settings

### Temperature and seed

With a higher temperature, less likely words get a chance. The **seed** is the number that the chance starts from. Compare the three lines: which two are equal?
"""

# %%
texts = []
for seed in (1, 2, 1):
    said = client.complete("Write one sentence about the sea.", temperature=0.7, seed=seed, max_tokens=40)
    texts.append(said.content)
    print(seed, said.content)

# %% tags=["nbval-check-output"]
print("same seed, same text:", texts[0] == texts[2])

# %% [markdown]
"""
A seed makes chance repeatable. That is what you want in a test, or when you report a bug.

### max_tokens

The limit cuts the answer. It doesn't make the model write a shorter one. Look at `finish_reason`.
"""

# %% tags=["nbval-check-output"]
cut = client.complete("Describe the sea.", max_tokens=6, temperature=0)
print(cut.usage.completion_tokens, "tokens, finish_reason", repr(cut.finish_reason))

# %% [markdown]
"""
`length` says that the model wanted to write more. Code that doesn't look at it takes half an answer for a whole one.

### stop

A stop string ends the answer at the place where it would appear. Look at the end of the text: is the string itself in it?
"""

# %%
week = client.complete("List the days of the week.", stop=["Thursday"], max_tokens=60, temperature=0)
print(repr(week.content), week.finish_reason)

# %% [markdown]
"""
If the model came as far as Thursday, the text ends just before it, and the reason is `stop`. If it never wrote the word, the text ends for another reason.
"""

# %% exercise="1.1"

# %% exercise="1.2"

# %% [markdown]
"""
### System prompt

A message has a **role**: who speaks. `user` is the person, `assistant` is the model. `system` stands before the conversation and tells the model how to behave. The client's `system=` adds such a message. Compare the three answers to one question.
"""

# %%
roles = (
    "You are a helpful assistant.",
    "You are a grumpy old sailor.",
    "You explain things to a five-year-old child in simple words.",
)
for role in roles:
    said = client.complete("What is the sea?", system=role, max_tokens=30, temperature=0)
    print(role, "\n    ", said.content)

# %% [markdown]
"""
Is the tone different? And are the facts better? It doesn't make the model know more. This one has 135 million parameters; the largest models have thousands of times as many. Its sentences are often good English and wrong facts. For this course that is enough: you learn how to use the *service*, and that is the same with every model.

### A conversation

The service remembers nothing. Each request stands alone. Ask something, and then ask about it:
"""

# %%
first = client.complete("Name one animal.", max_tokens=30, temperature=0)
forgotten = client.complete("What does it eat?", max_tokens=30, temperature=0)
print("1:", first.content)
print("2:", forgotten.content)

# %% [markdown]
"""
The second request doesn't say what "it" is, so the model can only guess. To continue a conversation, send **all** of it again, with the model's own answer in it.
"""

# %%
conversation = [
    {"role": "user", "content": "Name one animal."},
    {"role": "assistant", "content": first.content},
    {"role": "user", "content": "What does it eat?"},
]
second = client.complete(messages=conversation, max_tokens=30, temperature=0)
print("2:", second.content)
print("prompt tokens alone:", forgotten.usage.prompt_tokens)
print("with the conversation:", second.usage.prompt_tokens)

# %% [markdown]
"""
Compare the two answers marked 2. And compare the token counts: a long conversation makes every new question longer.
"""

# %% exercise="1.3"

# %% [markdown]
"""
## Unload and load

A loaded model uses memory. `unload_model` gives it back. The next cell does so, if the service is your own; other people's questions would fail in the meantime. Compare the memory before and after, and read the reason.
"""

# %%
alias = next(each.alias for each in client.list_models() if each.loaded)
if is_mine:
    before = client.health_check()
    client.unload_model(alias)
    after = client.health_check()
    print(in_mib(before.memory_usage), "->", in_mib(after.memory_usage))
    print(after.status, after.reasons)
else:
    print("left out: the service is not mine alone")

# %% [markdown]
"""
The difference is the model's weights and its working memory. What stays is the runtime. The service still answers, so it isn't *unavailable*. But it has no model to answer with, so it is *degraded*, and the reason says what to do.
"""

# %% tags=["nbval-check-output"]
if is_mine:
    client.load_model(alias)
print(client.health_check().status, client.loaded_models())

# %% exercise="1.4"

# %% [markdown]
"""
## Three errors, made on purpose

Errors are a part of the service that you should know. Read each message. It says what happened, and what to do.

**An unknown model.** A wrong name must not quietly become another model.
"""

# %% tags=["nbval-check-output"]
from foundry_lab.errors import FoundryError

try:
    client.complete("Hello", model="smollm-135m")
except FoundryError as error:
    print(type(error).__name__, "-", error)

# %% [markdown]
"""
**A bad value.** Here the service itself says no, and the client passes its words on. (`max_output_tokens` is the service's own name for `max_tokens`.)
"""

# %% tags=["nbval-check-output"]
try:
    client.complete("Hello", max_tokens=0)
except FoundryError as error:
    print(type(error).__name__, "-", error)

# %% [markdown]
"""
**Nobody is there.** On nearly every machine no program waits at port 9. The client tries again, as a service may be just starting: three times as a rule, once here. Then it says so.
"""

# %%
nobody = SyncFoundryAPIClient("http://127.0.0.1:9", retries=1)
try:
    nobody.complete("Hello")
except FoundryError as error:
    print(type(error).__name__, "-", error)
nobody.close()

# %% [markdown]
"""
Each of them is a `FoundryError`. So one `except` catches everything that this client raises. The more exact class tells you whether it was a wrong name or a service that is down.

## What does an answer cost?

On your own machine it costs time. The next cell asks for answers of several lengths, in rounds, and notes how long each took.
"""

# %%
LENGTHS = (4, 8, 16, 32, 64, 96)
asked, tokens, latencies = [], [], []
for _ in range(ROUNDS):
    for length in LENGTHS:
        said = client.complete("Write a long story about a lighthouse.", max_tokens=length, temperature=0)
        asked.append(length)
        tokens.append(said.usage.completion_tokens)
        latencies.append(said.latency_s)

# %% [markdown]
"""
Why rounds? One measurement can be wrong by chance: another program may have used the processor just then. Look at the smallest and the largest time of each length. The difference between them is the **spread**.
"""

# %%
for length in LENGTHS:
    times = [seconds for each, seconds in zip(asked, latencies, strict=True) if each == length]
    print(f"at most {length:2} tokens: {min(times) * 1000:4.0f} ms to {max(times) * 1000:4.0f} ms")

# %% [markdown]
"""
Now the picture. Each point is one request. Look whether the points of different lengths lie near one straight line.
"""

# %%
from foundry_lab import plots

plots.latency_by_tokens(tokens, latencies)

# %% [markdown]
"""
If they do, both numbers of the line mean something:

- Where the line meets the left side is the **fixed cost**: HTTP, and **prefill**, in which the model reads the prompt.
- How steep it is, is the **cost of a token** in **decode**, in which the model writes one token after another.

Points far from the line are requests that something else made slow. (On a busy machine: run the measurement again.)
"""

# %%
fit = plots.fit_latency(tokens, latencies)
print(f"fixed {fit.fixed_s * 1000:.0f} ms")
print(f"per token {fit.per_token_s * 1000:.1f} ms, which is {fit.tokens_per_s:.0f} tokens/s")

# %% [markdown]
"""
A line lets you predict. How long will an answer of 150 tokens take on your machine? Work it out from the two numbers. Write it into the next cell in place of `None`, and run the next two cells.
"""

# %%
guess_s = None  # your prediction, in seconds

# %% tags=["nbval-check-output"]
if guess_s is None:
    print("Write your prediction into the cell above first.")
else:
    story = client.complete("Write a long story about a lighthouse.", max_tokens=150, temperature=0)
    print(f"predicted {guess_s:.2f} s, measured {story.latency_s:.2f} s")
    print("tokens written:", story.usage.completion_tokens)

# %% exercise="1.5"

# %% [markdown]
"""
## Done

Close the client. It gives its connections back, and opens new ones if you use it again. The service goes on, for the other notebooks. To end it, type `foundry-lab stop` in a terminal, or call `foundry_lab.stop_service()` here.
"""

# %%
client.close()
http.close()

# %% [markdown]
"""
## Take away

1. A request is a URL, headers and a JSON body. The answer has a text, a reason why it ended, and token counts: read all three.
2. The service remembers nothing: you send the whole conversation each time.
3. An answer costs a fixed time, and then the same time for each token.

**Next:** [2 · Streaming](02_streaming.ipynb). The whole answer takes as long as before, and yet the wait feels short.
"""
