# %% [markdown] exercise="5.1"
"""
### Exercise 5.1 · Explain an outage

Here is the log of an outage, a time when a service didn't work (made shorter; times in seconds; a request has a line when it ends). Users said: "First it was slow, then nothing worked, then it was fine again."

| time | what | outcome | attempts | seconds | reason |
|--:|---|---|--:|--:|---|
| 0.4 | request a1 | ok | 1 | 0.4 | |
| 2.1 | request a2 | ok | 1 | 0.5 | |
| 60.0 | request a3 | ok | 3 | 1.9 | |
| 61.2 | request a4 | ok | 2 | 1.1 | |
| 63.0 | request a5 | failed | 4 | 1.7 | `ServiceUnavailableError`: connection refused |
| 63.0 | breaker closed → open | | | | 4 failures in a row |
| 63.2 | request a6 | refused | 0 | 0.0 | `CircuitOpenError` |
| 63.9 | health healthy → unavailable | | | | nobody answers |
| 64.0 | supervisor | restarted | | | attempt 1 |
| 64.9 | health unavailable → healthy | | | | |
| 65.0 | request a7 | refused | 0 | 0.0 | `CircuitOpenError` |
| 68.1 | breaker open → half-open | | | | 5 s later |
| 68.7 | request a8 | ok | 1 | 0.6 | |
| 68.7 | breaker half-open → closed | | | | the probe succeeded |

Answer in the cell below, in a few sentences: **What happened, and when? Why was a7 refused, although the service was healthy again? What would you change, or watch, so that it is noticed earlier next time?** (A person grades this one.)
"""

# %% [markdown] answer="5.1" points=3
"""
### BEGIN SOLUTION
From about 58 s the service failed for single attempts: a3 and a4 still got their answers, but only after retries, so they were slow. By 63 s the process was gone (connection refused): a5 failed with all its attempts, the breaker opened, and a6 was refused at once. The monitor saw it at 63.9 s, the supervisor started the service again, and at 64.9 s it was healthy: it was down for two seconds at least.

a7 was refused because the breaker doesn't know of the restart. It stays open for five seconds, until it lets a probe through at 68.1 s. The probe worked, so it closed.

The first sign was the number of attempts, three seconds before the first failure: watch the retries, and raise an alarm when they grow. With a shorter `open_s` the breaker would have tried earlier. And find out why the process died: the service's own log says what it did last.

**For the person who grades:** one point for each of these.

1. The order: retries first (58 to 61 s), then the process gone (63 s), restarted (64 s), healthy (64.9 s), answers again (68.7 s).
2. a7: the breaker was still open. It opens for a fixed time, and only a probe closes it.
3. Something that would have been seen earlier, or would have made it shorter: an alarm on attempts or retries, a shorter `open_s`, the service's own log for the cause.
### END SOLUTION
"""

# %% [markdown] exercise="5.2"
"""
### Exercise 5.2 · Your own client

Write a client that is ready for production, with nothing but `requests`. `my_client(url)` returns a function `ask(prompt, timeout_s)`, as `plain` above does; begin with a copy of it. Then mend one failed trial after the other. Six of nine trials give half of the points, eight give all.

Some help: `time.monotonic()` for the deadline; `response.headers.get("Retry-After")`; `http.post(…, stream=True)` and `response.iter_content(64)`, so that you can look at the time after every piece that arrives.

The check takes up to half a minute.
"""


# %% answer="5.2"
def my_client(url):
    """Return a function that asks the service at this address, and is hard to break."""
    ### BEGIN SOLUTION
    import json

    http = requests.Session()
    http.trust_env = False
    model = http.get(url + "/models/loaded", timeout=5).json()[0]
    failed_in_a_row, open_until = 0, 0.0

    def read_until(response, deadline):
        body = b""
        for piece in response.iter_content(64):
            body += piece
            if time.monotonic() > deadline:
                raise TimeoutError("no whole answer in time")
        return json.loads(body)

    def ask_once(prompt, deadline):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
        left_s = max(0.01, deadline - time.monotonic())
        response = http.post(url + CHAT, json=body, timeout=left_s, stream=True)
        if response.status_code == 429 or response.status_code >= 500:
            return response, None
        response.raise_for_status()
        return response, read_until(response, deadline)["choices"][0]["message"]["content"]

    def ask_patiently(prompt, deadline):
        for attempt in range(4):
            pause_s = 0.05 * 2**attempt
            try:
                response, text = ask_once(prompt, deadline)
                if text is not None:
                    return text
                pause_s = float(response.headers.get("Retry-After", pause_s))
            except requests.ConnectionError:
                pass
            if time.monotonic() + pause_s > deadline:
                break
            time.sleep(pause_s)
        raise RuntimeError("the service keeps failing")

    def ask(prompt, timeout_s):
        nonlocal failed_in_a_row, open_until
        if time.monotonic() < open_until:
            raise RuntimeError("the service is down, so nothing was sent")
        try:
            text = ask_patiently(prompt, time.monotonic() + timeout_s)
        except RuntimeError:
            failed_in_a_row += 1
            if failed_in_a_row >= 3:
                open_until = time.monotonic() + 30
            raise
        failed_in_a_row = 0
        return text

    return ask
    ### END SOLUTION


# %% check="5.2"
from foundry_lab.exercises import check

check("5.2", my_client)
