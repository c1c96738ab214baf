"""Wrong answers to the exercises of notebook 2."""

# ruff: noqa: F811, B007

import asyncio
import json
import re
import time

from wrong_answers.table import Table

WRONG = Table()


@WRONG.case("2.1", "without [DONE] at its end, but in its text")
def stream_text(pieces):
    text = b"".join(pieces).decode()
    if "[DONE]" not in text:
        raise ValueError("cut")
    return "".join(
        c["delta"].get("content", "")
        for e in text.replace("\r", "").split("\n\n")
        if e and e != "data: [DONE]"
        for c in json.loads(e[6:])["choices"]
    )


@WRONG.case("2.1", 'fed b"…\\xc3" and b"\\xa9')
def stream_text(pieces):
    text = "".join(piece.decode() for piece in pieces)
    return "".join(
        c["delta"].get("content", "")
        for e in text.split("\n\n")
        if e and e != "data: [DONE]"
        for c in json.loads(e[6:])["choices"]
    )


@WRONG.case("2.1", "IndexError")
def stream_text(pieces):
    text = ""
    for piece in pieces:
        for event in piece.decode().split("\n\n"):
            if event and "DONE" not in event:
                text += json.loads(event[6:])["choices"][0]["delta"].get("content", "")
    return text


@WRONG.case("2.1", "event whose text holds `data: [DONE]`")
def stream_text(pieces):
    text = b"".join(pieces).decode().replace("\r", "")
    return "".join(
        c["delta"].get("content", "")
        for e in text.split("\n\n")
        if e and "[DONE]" not in e
        for c in json.loads(e[6:])["choices"]
    )


@WRONG.case("2.1", 'the event {"error": …}')
def stream_text(pieces):
    text = b"".join(pieces).decode().replace("\r", "")
    if not text.rstrip().endswith("data: [DONE]"):
        raise ValueError("cut")
    return "".join(
        c["delta"].get("content", "")
        for e in text.split("\n\n")
        if e and e != "data: [DONE]"
        for c in json.loads(e[6:])["choices"]
    )


@WRONG.case("2.1", "lines that end in b'\\r\\n'")
def stream_text(pieces):
    text = b"".join(pieces).decode()
    return "".join(
        c["delta"].get("content", "")
        for e in text.split("\n\n")
        if e and e != "data: [DONE]"
        for c in json.loads(e[6:])["choices"]
    )


@WRONG.case("2.1", "a comment, `: keep-alive`")
def stream_text(pieces):
    text = b"".join(pieces).decode().replace("\r", "")
    if not text.rstrip().endswith("data: [DONE]"):
        raise ValueError("cut")
    events = [json.loads(e[6:]) for e in text.split("\n\n") if e and e != "data: [DONE]"]
    if "error" in events[0]:
        raise RuntimeError(events[0]["error"]["message"])
    return "".join(c["delta"].get("content", "") for event in events for c in event["choices"])


@WRONG.case("2.2", "That is the mean")
def percentile(values, percent):
    return sum(values) / len(values)


@WRONG.case("2.2", "isn't right")
def percentile(values, percent):
    return values[len(values) * percent // 100]


@WRONG.case("2.2", "IndexError")
def percentile(values, percent):
    return sorted(values)[len(values) * percent // 100]


@WRONG.case("2.2", "changed the list")
def percentile(values, percent):
    values.sort()
    return values[max(0, -(-len(values) * percent // 100) - 1)]


@WRONG.case("2.3", "the first sentence is 'Pi is 3.14, about.'")
async def first_sentence(client, question):
    async with client.stream_complete(question) as stream:
        async for chunk in stream:
            if "." in chunk.content:
                break
        return stream.text


@WRONG.case("2.3", "it never saw you hang up")
async def first_sentence(client, question):
    stream = client.stream_complete(question)
    async for chunk in stream:
        pass
    return re.split("(?<!Dr)(?<=[.!?]) ", stream.text.replace("Dr. ", "Dr._"))[0].replace("_", " ")


@WRONG.case("2.3", "the first sentence is 'Is it so?'")
async def first_sentence(client, question):
    async with client.stream_complete(question) as stream:
        async for chunk in stream:
            if found := re.search("[.](?=\\s)", stream.text):
                return stream.text[: found.end()]
        return stream.text


@WRONG.case("2.3", "the first sentence is 'Ask Dr. Who now!'")
async def first_sentence(client, question):
    async with client.stream_complete(question) as stream:
        async for chunk in stream:
            if found := re.search("[.!?](?=\\s)", stream.text):
                return stream.text[: found.end()]
        return stream.text


@WRONG.case("2.4", "they ran one by one")
async def first_tokens(client, together):
    waits = []
    for n in range(together):
        stream = client.stream_complete(f"Thing {n}")
        async for chunk in stream:
            pass
        waits.append(stream.ttft_s)
    return waits


@WRONG.case("2.4", "the time until the last token")
async def first_tokens(client, together):

    async def one(n):
        stream = client.stream_complete(f"Thing {n}")
        async for chunk in stream:
            pass
        return stream.arrivals_s[-1]

    return await asyncio.gather(*map(one, range(together)))


@WRONG.case("2.4", "a list of seconds is wanted")
async def first_tokens(client, together):

    async def one(n):
        stream = client.stream_complete(f"Thing {n}")
        async for chunk in stream:
            pass
        return stream.ttft_s

    return max(await asyncio.gather(*map(one, range(together))))


@WRONG.case("2.4", "sent 2 requests")
async def first_tokens(client, together):

    async def one(n):
        stream = client.stream_complete(f"Thing {n}")
        async for chunk in stream:
            pass
        return stream.ttft_s

    return await asyncio.gather(*map(one, range(together + 1)))


WRONG.value("2.4", "would wait no longer than one that is alone", "constant")
WRONG.value("2.4", "16 times as long", "quadratic")
WRONG.value("2.4", "8 times as long", "exponential")
WRONG.value("2.4", "set law to one of: constant, linear, quadratic, exponential", "it grows")
WRONG.value("2.4", "set law to one of: constant, linear, quadratic, exponential", 4)
WRONG.value("2.4", "Measure, then set law", ...)


@WRONG.case("2.5", "RequestTimeoutError")
async def patient(client, question, limit_s):
    stream = client.stream_complete(question, first_token_timeout=limit_s)
    async for chunk in stream:
        pass
    return stream.text


@WRONG.case("2.5", "RequestTimeoutError")
async def patient(client, question, limit_s):
    return (await client.complete(question, timeout=limit_s)).content


@WRONG.case("2.5", "return the text")
async def patient(client, question, limit_s):
    stream = client.stream_complete(question, first_token_timeout=limit_s, on_stall="fallback")
    async for chunk in stream:
        pass
    return stream


@WRONG.case("2.5", "nothing was asked")
async def patient(client, question, limit_s):
    return "Hello."


@WRONG.case("2.3", "nothing was asked")
async def first_sentence(client, question):
    return "The sea is wide."


@WRONG.case("2.3", "streamed 'No end', and nothing more, you returned None")
async def first_sentence(client, question):
    async with client.stream_complete(question) as stream:
        async for chunk in stream:
            if found := re.search("(?<!Dr)[.!?](?=\\s)", stream.text):
                return stream.text[: found.end()]


@WRONG.case("2.4", "no first token came so early")
async def first_tokens(client, together):

    async def one(n):
        started = time.perf_counter()
        stream = client.stream_complete(f"Thing {n}")
        made_s = time.perf_counter() - started
        async for chunk in stream:
            pass
        return made_s

    return await asyncio.gather(*map(one, range(together)))


@WRONG.case("2.5", "1 requests were sent")
async def patient(client, question, limit_s):
    from foundry_lab.errors import FoundryError

    try:
        async for chunk in client.stream_complete(question, first_token_timeout=limit_s):
            pass
    except FoundryError:
        return "Nothing came."


@WRONG.case("2.1", "an event whose text holds `data: [DONE]`")
def stream_text(pieces):
    text = b"".join(pieces).decode().replace("\r", "")
    events = [each.strip() for each in text.split("data: ")[1:]]
    return "".join(
        c["delta"].get("content", "")
        for event in events
        if not event.startswith("[DONE]")
        for c in json.loads(event)["choices"]
    )


@WRONG.case("2.4", "two streams asked the same")
async def first_tokens(client, together):

    async def one():
        stream = client.stream_complete("Describe the sea.")
        async for chunk in stream:
            pass
        return stream.ttft_s

    return await asyncio.gather(*(one() for _ in range(together)))


@WRONG.case("2.4", "Are these milliseconds?")
async def first_tokens(client, together):

    async def one(n):
        stream = client.stream_complete(f"Thing {n}")
        async for chunk in stream:
            pass
        return stream.ttft_s * 1000

    return await asyncio.gather(*map(one, range(together)))


async def second_try(client, question, limit_s, again):
    from foundry_lab.errors import RequestTimeoutError

    try:
        stream = client.stream_complete(question, first_token_timeout=limit_s)
        async for chunk in stream:
            pass
        return stream.text
    except RequestTimeoutError:
        return await again()


@WRONG.case("2.5", "asked for a stream again")
async def patient(client, question, limit_s):

    async def again():
        stream = client.stream_complete(question)
        async for chunk in stream:
            pass
        return stream.text

    return await second_try(client, question, limit_s, again)


@WRONG.case("2.5", "asked something else")
async def patient(client, question, limit_s):

    async def again():
        return (await client.complete("Are you there?")).content

    return await second_try(client, question, limit_s, again)


@WRONG.case("2.5", "and you returned 'Sorry.'; return the text")
async def patient(client, question, limit_s):

    async def again():
        await client.complete(question)
        return "Sorry."

    return await second_try(client, question, limit_s, again)
