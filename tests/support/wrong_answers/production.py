"""Wrong answers to the exercises of notebook 4."""

# ruff: noqa: F811, B007

import random

from wrong_answers.table import Table

WRONG = Table()


@WRONG.case("4.1", "a 400")
def should_retry(error):
    return True


@WRONG.case("4.1", "a 429")
def should_retry(error):
    return hasattr(error, "status") and error.status >= 500


@WRONG.case("4.1", "may still be working on it")
def should_retry(error):
    from foundry_lab.errors import FoundryError

    return isinstance(error, FoundryError) and (not 400 <= getattr(error, "status", 0) < 429)


@WRONG.case("4.1", "AttributeError")
def should_retry(error):
    return error.status in (429, 500, 503)


@WRONG.case("4.2", "before retry 12 the most is 5 s")
def wait_s(retry, initial_s, cap_s):
    return random.uniform(0, initial_s * 2 ** (retry - 1))


@WRONG.case("4.2", "the same number")
def wait_s(retry, initial_s, cap_s):
    return min(cap_s, initial_s * 2 ** (retry - 1))


@WRONG.case("4.2", "the mean of 1000 draws")
def wait_s(retry, initial_s, cap_s):
    limit = min(cap_s, initial_s * 2 ** (retry - 1))
    return random.uniform(limit / 2, limit)


@WRONG.case("4.2", "before retry 1 the most is 0.2 s")
def wait_s(retry, initial_s, cap_s):
    return random.uniform(0, min(cap_s, initial_s * 2**retry))


@WRONG.case("4.3", "RequestTimeoutError")
async def read_or_keep(client, question, limit_s):
    stream = client.stream_complete(question, idle_timeout=limit_s)
    async for chunk in stream:
        pass
    return (stream.text, None)


@WRONG.case("4.3", "the phase 'total'")
async def read_or_keep(client, question, limit_s):
    from foundry_lab.errors import FoundryError

    stream = client.stream_complete(question, timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except FoundryError as error:
        return (stream.text, error.phase)
    return (stream.text, None)


@WRONG.case("4.3", "some had come before the silence")
async def read_or_keep(client, question, limit_s):
    from foundry_lab.errors import FoundryError

    try:
        stream = client.stream_complete(question, idle_timeout=limit_s)
        async for chunk in stream:
            pass
    except FoundryError as error:
        return ("", error.phase)
    return (stream.text, None)


@WRONG.case("4.3", "a text and a phase are wanted")
async def read_or_keep(client, question, limit_s):
    from foundry_lab.errors import FoundryError

    stream = client.stream_complete(question, idle_timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except FoundryError:
        pass
    return stream.text


@WRONG.case("4.4", "30.5 s after it opened")
class RateBreaker:
    def __init__(self, clock):
        self.failed = 0

    def allow(self):
        return self.failed < 5

    def record(self, worked):
        self.failed = 0 if worked else self.failed + 1


@WRONG.case("4.4", "5 of the last 10 calls have failed")
class RateBreaker:
    def __init__(self, clock):
        self.all = []

    def allow(self):
        return len(self.all) < 10 or self.all.count(False) * 2 < len(self.all)

    def record(self, worked):
        self.all.append(worked)


@WRONG.case("4.4", "four failures are too few")
class RateBreaker:
    def __init__(self, clock):
        self.all = []

    def allow(self):
        return self.all[-10:].count(False) * 2 < max(1, len(self.all[-10:]))

    def record(self, worked):
        self.all.append(worked)


@WRONG.case("4.4", "let a second call through")
class RateBreaker:
    def __init__(self, clock):
        self.clock, self.last, self.at = (clock, [], None)

    def allow(self):
        return self.at is None or self.clock() - self.at >= 30

    def record(self, worked):
        self.last = [*self.last, worked][-10:]
        if len(self.last) == 10 and self.last.count(False) >= 5:
            self.at = self.clock()


@WRONG.case("4.1", "True or False is wanted")
def should_retry(error):
    return "yes" if getattr(error, "status", 0) >= 500 else "no"


@WRONG.case("4.2", "seconds are wanted")
def wait_s(retry, initial_s, cap_s):
    return (0, min(cap_s, initial_s * 2 ** (retry - 1)))


@WRONG.case("4.2", "less than nothing")
def wait_s(retry, initial_s, cap_s):
    limit = min(cap_s, initial_s * 2 ** (retry - 1))
    return random.uniform(-limit, limit)


@WRONG.case("4.3", "sent 2 requests; one is wanted")
async def read_or_keep(client, question, limit_s):
    stream = client.stream_complete(question, idle_timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except Exception as error:
        await client.complete(question)
        return (stream.text, error.phase)
    return (stream.text, None)


@WRONG.case("4.3", "the text and None are wanted")
async def read_or_keep(client, question, limit_s):
    stream = client.stream_complete(question, idle_timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except Exception as error:
        return (stream.text, error.phase)
    return (stream.text, "idle")


@WRONG.case("4.4", "Give the class itself")
def RateBreaker(clock):
    return Almost(clock)


@WRONG.case("4.4", "allow() returned None (is a `return` missing?); True")
class RateBreaker:
    def __init__(self, clock):
        self.clock = clock

    def allow(self):
        print(end="")


class Almost:
    """Right but for the numbers and steps that a wrong answer below changes."""

    open_s = 30

    def __init__(self, clock):
        self.clock = clock
        self.last, self.opened_at, self.probing = [], None, False

    def allow(self):
        if self.opened_at is None:
            return True
        if self.probing or self.clock() - self.opened_at < self.open_s:
            return False
        self.probing = True
        return True

    def record(self, worked):
        if self.probing:
            self.after_probe(worked)
            return
        self.last = [*self.last, worked][-10:]
        if len(self.last) == 10 and self.last.count(False) >= 5:
            self.opened_at = self.clock()


@WRONG.case("4.4", "29 s after it opened")
class RateBreaker(Almost):
    open_s = 20


@WRONG.case("4.4", "0.5 s after the probe failed")
class RateBreaker(Almost):
    def after_probe(self, worked):
        self.probing = False


@WRONG.case("4.4", "30.5 s after a probe had failed")
class RateBreaker(Almost):
    def after_probe(self, worked):
        self.opened_at = self.clock()


@WRONG.case("4.4", "with old failures forgotten, allow() refused call")
class RateBreaker(Almost):
    def after_probe(self, worked):
        self.probing = False
        self.opened_at = None if worked else self.clock()


@WRONG.case("4.3", "returned the text '4 ', and '1 2 3 4 ' had come")
async def read_or_keep(client, question, limit_s):
    text = ""
    try:
        async for chunk in client.stream_complete(question, idle_timeout=limit_s):
            text = chunk.content
    except Exception as error:
        return text, error.phase
    return text, None


@WRONG.case("4.3", "returned the text ''; the whole text is '1 2")
async def read_or_keep(client, question, limit_s):
    stream = client.stream_complete(question, idle_timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except Exception as error:
        return stream.text, error.phase
    return "", None
