# %% [markdown] exercise="2.1"
"""
### Exercise 2.1 · A stream by hand

Write `stream_text(pieces)`. It takes the pieces of a stream's body one after the other, each of type `bytes`, and returns the whole text. (Do it without `SSEDecoder`.) The check cuts the pieces as it likes, and tries what can go wrong:

- a piece ends in the middle of an event, or of a letter;
- lines end in `\r\n` instead of `\n`;
- a line begins with a colon, such as `: keep-alive`: a comment, which says nothing;
- the last event, with the token counts, has no choices;
- the text itself holds the characters `data: [DONE]`;
- the stream ends without the event `[DONE]`, or an event holds an `error`: then raise an error.
"""


# %% answer="2.1"
def stream_text(pieces):
    """Return the text of a streamed answer, from the pieces of its body."""
    ### BEGIN SOLUTION
    words, done = [], False
    body = b"".join(pieces).replace(b"\r\n", b"\n").decode()
    for event in body.split("\n\n"):
        payload = event.removeprefix("data: ").strip()
        if payload == "[DONE]":
            done = True
        elif event.startswith("data: "):
            data = json.loads(payload)
            if "error" in data:
                raise RuntimeError(data["error"]["message"])
            words += [choice["delta"].get("content", "") for choice in data["choices"]]
    if not done:
        raise ValueError("the stream was cut off")
    return "".join(words)
    ### END SOLUTION


# %% check="2.1"
from foundry_lab.exercises import check

check("2.1", stream_text)

# %% [markdown] exercise="2.2"
"""
### Exercise 2.2 · A percentile

Write `percentile(values, percent)`. It returns a value that `percent` of 100 values don't exceed: `percentile(latencies, 95)` is the p95. Sort a copy of the values, and take the one at the right place.

What is the p50 of a single value? And of `[2, 2, 2, 2]`?
"""


# %% answer="2.2"
def percentile(values, percent):
    """Return the value that `percent` of 100 values don't exceed."""
    ### BEGIN SOLUTION
    ordered = sorted(values)
    place = -(-percent * len(ordered) // 100)  # rounded up
    return ordered[max(place, 1) - 1]
    ### END SOLUTION


# %% check="2.2"
from foundry_lab.exercises import check

check("2.2", percentile)

# %% [markdown] exercise="2.3"
"""
### Exercise 2.3 · The first sentence

Write `first_sentence(client, question)`. It asks for a stream, stops it as soon as the first sentence is whole, and returns this sentence.

A sentence ends with `.`, `!` or `?` before a space. But the `.` in `3.14` ends nothing, and neither does the one in `Dr. Who`. If the answer ends before that, return all of it.

The check looks at the text, and whether the service saw you hang up.
"""


# %% answer="2.3"
async def first_sentence(client, question):
    """Return the first sentence of the answer; let the service write no more than that."""
    ### BEGIN SOLUTION
    import re

    end = re.compile(r"(?<!\bDr)[.!?](?=\s)")
    async with client.stream_complete(question, max_tokens=200) as stream:
        async for chunk in stream:
            if found := end.search(stream.text):
                return stream.text[: found.end()].strip()
        return stream.text.strip()
    ### END SOLUTION


# %% check="2.3"
from foundry_lab.exercises import check

check("2.3", first_sentence)

# %% [markdown] exercise="2.4"
"""
### Exercise 2.4 · The first token, with others at once

Guess first: if four people ask at the same moment, how much longer does the last of them wait for the first token?

Write `first_tokens(client, together)`. It starts that many streams at the same time, each with another question, and returns the list of their times to first token, in seconds. The check below tells whether it does: one point.

Then measure, in a cell of your own: three rounds with 1, 2 and 4 at once. Look at the longest wait of each.

```python
for together in (1, 2, 4):
    rounds = [max(await first_tokens(client, together)) for _ in range(3)]
    print(together, "at once:", ", ".join(f"{each * 1000:.0f} ms" for each in sorted(rounds)))
```

By which law does the longest wait grow with the number of streams? Put the name of the nearest one into `law`, for the other point:

| `law` | each stream more | 1, 2, 4 at once, such as |
|---|---|---|
| `"constant"` | changes nothing | 1 s, 1 s, 1 s |
| `"linear"` | adds about the same time | 1 s, 2 s, 4 s |
| `"exponential"` | doubles the time | 1 s, 2 s, 8 s |
| `"quadratic"` | adds more than the one before it | 1 s, 4 s, 16 s |
"""


# %% answer="2.4"
async def first_tokens(client, together):
    """Return the times to first token of streams that start at the same time, in seconds."""

    ### BEGIN SOLUTION
    async def one(number):
        stream = client.stream_complete(f"Describe thing number {number}.", max_tokens=16)
        async for chunk in stream:
            pass
        return stream.ttft_s

    return await asyncio.gather(*(one(number) for number in range(together)))
    ### END SOLUTION


law = ...
### BEGIN SOLUTION
law = "linear"
### END SOLUTION


# %% check="2.4"
from foundry_lab.exercises import check

check("2.4", first_tokens, law)

# %% [markdown]
"""
Can you say why it is this law? If the longest wait grows with the number, the service reads the prompts one after the other: the last must wait for the prefill of all.
"""

# %% [markdown] exercise="2.5"
"""
### Exercise 2.5 · When nothing comes

Write `patient(client, question, limit_s)`. It asks for a stream. If no token has come after `limit_s` seconds, it asks once more without streaming. It returns the text.

The check puts something between you and the service, which takes the first request and then sends nothing more.
"""


# %% answer="2.5"
async def patient(client, question, limit_s):
    """Return the answer, though the stream may hang."""
    ### BEGIN SOLUTION
    stream = client.stream_complete(question, max_tokens=20, first_token_timeout=limit_s, on_stall="fallback")
    async for chunk in stream:
        pass
    return stream.text
    ### END SOLUTION


# %% check="2.5"
from foundry_lab.exercises import check

check("2.5", patient)
