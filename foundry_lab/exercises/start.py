"""Checks of the exercises in notebook 0: JSON, one GET, await and gather."""

import asyncio
from types import SimpleNamespace
from typing import Any

from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Wrong, attempt, described, returned, shown
from foundry_lab.faults import FaultProxy


@exercise("0.1", "A path in JSON", points=1)
def text_of(text_of: Any) -> None:
    """The answer's text is found in replies that say other things, and have a second choice."""
    for said in ("Blue.", "It is nine o'clock."):
        choices = [{"message": {"role": "assistant", "content": each}} for each in (said, "a second choice")]
        reply = {"id": "r-1", "choices": choices, "usage": {"total_tokens": 9}}
        outcome = attempt(text_of, reply)
        if outcome.error is not None:
            raise Wrong(
                f"on the way through {shown(reply)} it raised {described(outcome.error)}. "
                "Take one step at a time: print what you have after each."
            )
        if outcome.value == "a second choice":
            raise Wrong("that is the second choice's text, and the first is wanted. Python counts from 0.")
        if outcome.value != said:
            raise Wrong(f"the reply said {said!r}, and you {returned(outcome.value)}.")


@exercise("0.2", "GET by hand", points=1)
def status_of(status_of: Any) -> None:
    """The service's own log, kept by a proxy in front of it, shows one GET /status."""
    with FaultProxy() as proxy:
        outcome = attempt(status_of, proxy.url, call="it", limit_s=30)
        asked = [f"{entry.method} {entry.path}" for entry in proxy.log]
    if not asked and outcome.error is None:
        raise Wrong("no request came to the address that it was given. Does it use its argument `address`?")
    if asked and asked != ["GET /status"]:
        raise Wrong(f"the service was asked {', '.join(asked)}, and GET /status, once, is wanted.")
    value = outcome.result(dict, "the JSON in the answer is wanted, as a dict")
    if not {"endpoints", "pid"} & value.keys():
        raise Wrong(f"you {returned(value)}, which isn't what /status answered.")


class _Client:
    """Stands in for the lab's client: its answer is known."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.handed_out: list[Any] = []
        self.asked: Any = None

    def complete(self, prompt: str | None = None, **options: Any) -> Any:
        self.asked = prompt if prompt is not None else options.get("messages")
        self.handed_out.append(self._answer())
        return self.handed_out[-1]

    async def _answer(self) -> Any:
        await asyncio.sleep(0.01)
        return SimpleNamespace(content=self.text)


@exercise("0.3", "The missing await", points=1)
def greet(greet: Any) -> None:
    """The text comes back, and not a coroutine."""
    for text in ("Hello!", "Good morning."):
        client = _Client(text)
        outcome = attempt(greet, client, call="greet(client)")
        for coroutine in client.handed_out:
            coroutine.close()  # or Python complains of what nobody awaited
        if outcome.error is not None and "coroutine" in str(outcome.error):
            raise Wrong(
                f"{described(outcome.error)}. A coroutine is a call that nobody has awaited. "
                "Which call gives one here?"
            )
        value, times = outcome.result(), len(client.handed_out)
        if times != 1:
            raise Wrong(f"client.complete was called {times} times, and should be once.")
        if client.asked not in ("Say hello.", [{"role": "user", "content": "Say hello."}]):
            raise Wrong(f"the client was asked {shown(client.asked)}; keep the question, 'Say hello.'.")
        if value != text:
            raise Wrong(f"the client said {text!r}, and you {returned(value)}.")


@exercise("0.4", "Three at once", points=2)
def ask_all(ask_all: Any) -> None:
    """However many there are, all wait at the same time, and the answers come in the questions' order."""
    for questions in (["slow", "middle", "quick"], ["middle", "quick"]):
        now = most = 0

        async def ask(question: str) -> str:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep({"slow": 0.3, "middle": 0.2, "quick": 0.1}[question])
            now -= 1
            return question.upper()

        call = f"ask_all(ask, {questions})"
        value = attempt(ask_all, ask, questions, call=call).result()
        wanted = [question.upper() for question in questions]
        if asyncio.isfuture(value):
            if value.done() and not value.cancelled():
                value.exception()  # or Python complains later, in its own words, that nobody looked at it
            raise Wrong("you returned what gather gives before it is awaited. Which word is missing?")
        if isinstance(value, list) and any(map(asyncio.iscoroutine, value)):
            raise Wrong("you returned coroutines, which nobody has awaited. What begins them all?")
        if not isinstance(value, list | tuple) or sorted(map(str, value)) != sorted(wanted):
            raise Wrong(f"{call} {returned(value)}; a list is wanted, with one answer for each question.")
        if most < len(questions):
            raise Wrong(
                f"never more than {most} of the {len(questions)} was under way: each began when the one "
                "before had ended, so the waits add up. All should wait at the same time."
            )
        if list(value) != wanted:
            raise Wrong(f"{call} {returned(value)}: that is the order in which they ended.")
