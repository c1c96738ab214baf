# %% [markdown]
"""
# 0 · Start: how this course works, JSON, and `await`

**After this notebook you can**

- run a notebook, solve an exercise, and find out whether your answer is right;
- check that everything is installed;
- find a value in JSON, and send one request by hand;
- say what `await` does, wait for several things at once, and read the two errors that everybody meets.

**Time:** about 25 minutes: 10 to read and run, 15 for the four exercises. Times in this course are computed, not measured: 130 words a minute, code included, and for each exercise two minutes and one more for each line of its solution. Take the time that you need. Running the cells takes a few seconds (some minutes if the model must be fetched first; `foundry-lab lab` has done it).

**You need:** some Python: functions, lists, dicts. Nothing else. If you know HTTP and `async` well, do the exercises and go on to [1 · Basic](01_basic.ipynb). New words are explained where they first stand; the [glossary](glossary.md) has them all.
"""

# %% [markdown]
"""
## How this course works

There are six notebooks: this one, then basic, streaming, batch, and production in two parts. Each has text, code that you run, and exercises.

- Run a cell with **Shift+Enter**. Run the cells from top to bottom; later ones use what earlier ones have made.
- Before you look at a result, **guess** it. You learn most where the guess was wrong.
- Change things and run them again. You can't break anything: `Run → Run All Cells` puts everything in order again.
- An **exercise** has three cells: the task, a cell for your answer, and a check. The check prints `✓`, or one hint. `·` means that there is no answer yet.

The numbers in your notebook are your own machine's. They will not be equal to anybody else's.

Near its beginning, each notebook has a cell with what you may want to change. Here it is one question:
"""

# %% tags=["parameters"]
QUESTION = "Name one colour."

# %% [markdown]
"""
## Is everything there?

`foundry-lab doctor` looks at this machine and says what to do if something is missing. Type it in a terminal, or run it here:
"""

# %%
import platform

from foundry_lab.workbook.doctor import run_checks

print("Python", platform.python_version())
for each in run_checks():
    print(each.status, each.name)
    if each.advice:
        print("   ->", each.advice)

# %% [markdown]
"""
`ok` is good, `warn` is something to know, and `fail` must be mended first: do what the arrow says.

## JSON

Programs on different machines talk in text. The most usual form of that text is **JSON**. It looks like Python's dicts and lists, and it becomes them with one call. Look at the type before and after.
"""

# %% tags=["nbval-check-output"]
import json

text = """{
  "id": "reply-1",
  "choices": [
    {"message": {"role": "assistant", "content": "Blue."}, "finish_reason": "stop"}
  ],
  "usage": {"total_tokens": 9}
}"""
reply = json.loads(text)
print(type(text), "->", type(reply))
print(list(reply))

# %% [markdown]
"""
A language model's answer comes in this form. To get to a value, go one step at a time: a **key** in quotes goes into a dict, a number in brackets goes into a list (counted from 0).
"""

# %% tags=["nbval-check-output"]
print(reply["usage"])
print(reply["usage"]["total_tokens"])
print(reply["choices"][0])

# %% exercise="0.1"

# %% [markdown]
"""
## One request by hand

A **service** is a program that waits for requests and answers them. The one of this course holds a **language model**, which continues a text piece by piece. It runs on your own machine. The next cell starts it, if it isn't running yet, and gives its address, the **endpoint**.
"""

# %%
from foundry_lab import ensure_service

endpoint = ensure_service()
endpoint

# %% [markdown]
"""
The address is a **URL**, as in a browser. Its first word names the language that browsers and services talk: **HTTP**. `127.0.0.1` means "this machine".

The simplest request is **GET**: "give me this page". The page `/status` says how the service is. `requests` is a library that sends requests; `timeout=5` says for how many seconds it waits at most. Look at the **status code** first: 200 means "it worked", 404 means "there is no such page".
"""

# %% tags=["nbval-check-output"]
import requests

http = requests.Session()
http.trust_env = False  # use no company proxy: this is our own machine
answer = http.get(endpoint + "/status", timeout=5)
print(answer.status_code)
print(http.get(endpoint + "/no-such-page", timeout=5).status_code)

# %% [markdown]
"""
`.json()` reads the JSON of the answer, as `json.loads` did above. What are the keys?
"""

# %% tags=["nbval-check-output"]
print(sorted(answer.json()))

# %% exercise="0.2"

# %% [markdown]
"""
## What `await` does

A program that asks a service must wait for the answer. In this time it does nothing. With `await` it can do something else in the meantime.

A function that begins with `async def` may wait in this way. `asyncio.sleep` stands for anything that takes time. Here is a small cook:
"""

# %%
import asyncio
import time


async def cook(dish, seconds):
    await asyncio.sleep(seconds)  # the pot is on the stove, the cook is free
    return f"{dish} is ready"


# %% [markdown]
"""
Call it *without* `await`. What comes out?
"""

# %% tags=["nbval-check-output"]
later = cook("soup", 0.3)
print(type(later).__name__)

# %% [markdown]
"""
Not soup, but a **coroutine**: an order that is written down, and nobody has begun to cook. `await` begins, waits until it is done, and gives the result.
"""

# %% tags=["nbval-check-output"]
print(await later)

# %% [markdown]
"""
Two dishes, one after the other: how long will that take?
"""

# %%
started = time.perf_counter()
print(await cook("soup", 0.3))
print(await cook("rice", 0.3))
print(f"{time.perf_counter() - started:.1f} s")

# %% [markdown]
"""
Each `await` waits to the end before the next line begins. `asyncio.gather` takes several coroutines and begins **all** of them. Guess the time, then run it.
"""

# %%
started = time.perf_counter()
print(await asyncio.gather(cook("soup", 0.3), cook("rice", 0.3)))
took_s = time.perf_counter() - started
print(f"{took_s:.1f} s")

# %% [markdown]
"""
Both pots are on the stove at the same time. So it takes as long as the slower one. The results come back in the order in which you wrote them, whichever was done first.

There is still only one cook (one **thread**: one line of work). While the cook stands there and cuts onions, nothing else happens: only *waiting* can be shared, not work.

## `async for`

Some things come piece by piece, and you wait for each piece. A loop that waits between the pieces is `async for`. (`yield` hands over one piece. The function goes on there when the next piece is asked for.)
"""

# %% tags=["nbval-check-output"]
async def courses():
    for dish in ("soup", "rice", "cake"):
        await asyncio.sleep(0.1)
        yield dish


async for dish in courses():
    print(dish)

# %% [markdown]
"""
In notebook 2 the pieces are the words of an answer, as the model writes them.

## Two errors that everybody meets

**The first: a forgotten `await`.** A **client** is a program that asks a service. The lab's client asks the model, and its `complete` is an async function. The next cell does it right. (`max_tokens=8` keeps the answer short, and `temperature=0` takes chance out of it. Notebook 1 explains both.)
"""

# %%
from foundry_lab import FoundryAPIClient

client = FoundryAPIClient()
answer = await client.complete(QUESTION, max_tokens=8, temperature=0)
print(answer.content)

# %% [markdown]
"""
Now without `await`. The next cell makes this mistake on purpose, and prints the error instead of stopping. Read it.
"""

# %% tags=["nbval-check-output"]
answer = client.complete(QUESTION, max_tokens=8)
try:
    print(answer.content)
except AttributeError as error:
    print(error)
answer.close()  # throw the order away

# %% [markdown]
"""
"A coroutine has no content": you have the order in your hand, not the meal. Whenever an error names a *coroutine*, look for the call that has no `await` before it. (Python may also warn: "coroutine … was never awaited". That is the same mistake.)

**The second: `await` before something that comes in pieces.** `stream_complete` gives a stream. It must be read with `async for`. The next cell makes this mistake, too.
"""

# %%
stream = client.stream_complete(QUESTION, max_tokens=8)
try:
    await stream
except TypeError as error:
    print(error)

# %% [markdown]
"""
A stream isn't one result that is there at the end. So it can't be awaited. Read it piece by piece; here a `|` shows where each piece ends.
"""

# %%
async for chunk in client.stream_complete(QUESTION, max_tokens=8, temperature=0):
    print(chunk.content, end="|")

# %% [markdown]
"""
Most pieces are a word or a part of one. A piece may also be empty: it only says that the answer begins or is over.
"""

# %% exercise="0.3"

# %% exercise="0.4"

# %% [markdown]
"""
## In a notebook and in a script

In a notebook you may write `await` anywhere: a notebook has an **event loop**, the part of Python that watches all the pots, and it runs all the time. In a script (a `.py` file) there is none yet. `await` outside of an `async def` is a `SyntaxError` there. A script puts everything into one async function, and starts the loop with it:

```python
import asyncio

from foundry_lab import FoundryAPIClient


async def main():
    async with FoundryAPIClient() as client:
        answer = await client.complete("Name one colour.")
        print(answer.content)


asyncio.run(main())
```

In a notebook, `asyncio.run` fails: the loop is running already. So remember: `await` in a notebook, `asyncio.run` once in a script. (If you want neither, `SyncFoundryAPIClient` has the same functions without `await`.)

## Done

Close what is open. The service goes on, for the other notebooks.
"""

# %%
await client.close()
http.close()

# %%
from foundry_lab.exercises import check

check.progress()

# %% [markdown]
"""
`check.progress()` shows what you have solved. It is kept in a small file on this machine.

## Take away

1. JSON is text that becomes dicts and lists. Go to a value one step at a time.
2. `await` waits for one thing; `gather` begins several and waits for all; `async for` reads piece by piece.
3. An error that names a coroutine means: an `await` is missing.

**Next:** [1 · Basic](01_basic.ipynb): one request, seen from all sides.
"""
