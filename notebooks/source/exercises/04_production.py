# %% [markdown] exercise="4.1"
"""
### Exercise 4.1 · Try again or not

Write `should_retry(error)`. It takes an error of the client, and returns `True` if it may help to send the same request again, or `False` if it will not help or does harm. The check gives you ten errors.

Useful: `isinstance(error, …)`, the classes in `foundry_lab.errors`, and `error.status`, which every `APIStatusError` has.
"""


# %% answer="4.1"
def should_retry(error):
    """Return whether the same request may work the next time."""
    ### BEGIN SOLUTION
    from foundry_lab.errors import APIStatusError, ServiceUnavailableError

    if isinstance(error, APIStatusError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, ServiceUnavailableError)
    ### END SOLUTION


# %% check="4.1"
from foundry_lab.exercises import check

check("4.1", should_retry)

# %% [markdown] exercise="4.2"
"""
### Exercise 4.2 · A random wait

Write `wait_s(retry, initial_s, cap_s)`: how long to wait before retry number `retry`, in seconds, with full jitter. The limit is `initial_s` before retry 1, twice as much before retry 2, and so on, but never more than `cap_s`. The wait is a random number between 0 and the limit.
"""


# %% answer="4.2"
def wait_s(retry, initial_s, cap_s):
    """Return a random wait in seconds before a retry, counted from 1."""
    ### BEGIN SOLUTION
    import random

    return random.uniform(0, min(cap_s, initial_s * 2 ** (retry - 1)))
    ### END SOLUTION


# %% check="4.2"
from foundry_lab.exercises import check

check("4.2", wait_s)

# %% [markdown] exercise="4.3"
"""
### Exercise 4.3 · Half an answer is kept

A stream can fall silent in the middle. Write `read_or_keep(client, question, limit_s)`. It asks for a stream, with `limit_s` seconds as the limit on silence between two tokens. It returns two things, the text and a phase:

- if all goes well: the whole text, and `None`;
- if the limit is reached: the text that had come, and the error's `.phase`.
"""


# %% answer="4.3"
async def read_or_keep(client, question, limit_s):
    """Return the text, whole or not, and the phase in which the time was up."""
    ### BEGIN SOLUTION
    from foundry_lab.errors import RequestTimeoutError

    stream = client.stream_complete(question, max_tokens=30, idle_timeout=limit_s)
    try:
        async for chunk in stream:
            pass
    except RequestTimeoutError as error:
        return stream.text, error.phase
    return stream.text, None
    ### END SOLUTION


# %% check="4.3"
from foundry_lab.exercises import check

check("4.3", read_or_keep)

# %% [markdown] exercise="4.4"
"""
### Exercise 4.4 · A breaker that looks at the rate

The breaker above counts failures *in a row*. If every second call fails, it never opens. Write one that looks at the share of failures:

- *Closed:* `allow()` returns `True`. `record(worked)` notes how a call ended. If there were at least ten calls, and at least half of the **last ten** have failed, it opens.
- *Open:* `allow()` returns `False`, for 30 seconds.
- Then `allow()` returns `True` **once**, for a probe. If `record(True)` follows, it closes, and forgets the old calls. If `record(False)` follows, it is open for another 30 seconds.

`clock()` gives the time in seconds. Use it, and not `time.monotonic`: the check has a clock of its own, which it can set forward. A `collections.deque(maxlen=10)` keeps the last ten of whatever you append to it.
"""


# %% answer="4.4"
class RateBreaker:
    """Refuses calls when half of the last ten have failed."""

    ### BEGIN SOLUTION
    def __init__(self, clock):
        self.clock = clock
        self.close()

    def close(self):
        from collections import deque

        self.last = deque(maxlen=10)
        self.opened_at = None
        self.probing = False

    def allow(self):
        if self.opened_at is None:
            return True
        if self.probing or self.clock() - self.opened_at < 30:
            return False
        self.probing = True
        return True

    def record(self, worked):
        if self.probing and worked:
            self.close()
            return
        self.last.append(worked)
        if self.probing or (len(self.last) == 10 and self.last.count(False) >= 5):
            self.opened_at = self.clock()
            self.probing = False

    ### END SOLUTION


# %% check="4.4"
from foundry_lab.exercises import check

check("4.4", RateBreaker)
