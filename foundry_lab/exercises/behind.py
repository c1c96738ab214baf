"""What checks share that use a client: a call with a client of its own, and one behind a fault proxy."""

import re
from collections.abc import Callable
from typing import Any

from foundry_lab import FoundryAPIClient
from foundry_lab.exercises.double import Answer, Asked, Double, completion
from foundry_lab.exercises.trying import attempt
from foundry_lab.faults import Fault, FaultProxy
from foundry_lab.protocol import CHAT_PATH

CALL_S = 60.0
"""How long a call may take that meets no fault, or waits for one to end."""


def with_client(function: Callable[..., Any], url: str, *args: Any, call: str) -> Any:
    """Return what a learner's async function gives, called with a client of its own that is closed then.

    Raises:
        Wrong: it raised, or didn't end in time.
        Unanswered: it raised NotImplementedError, or gave `...`.
    """

    async def run() -> Any:
        async with FoundryAPIClient(url, retries=0, breaker=False, metrics=False) as client:
            return await function(client, *args)

    return attempt(run, call=call, limit_s=CALL_S).result()


TEXT = "1 2 3 4 5 6 7 8 "
"""What `behind` answers, a number a piece."""


def behind(
    fault: Fault | None, function: Callable[..., Any], *args: Any, call: str
) -> tuple[Any, list[str], list[Any]]:
    """Return what such a call gives if the first request for a completion meets a fault on its way.

    Beyond the fault is a double, which counts: on a busy machine the real service is silent for a while, too.

    Also returned: what each request for a completion met, a fault or nothing; and the bodies of those that
    came through.

    Raises:
        Wrong: it raised, or didn't end in time.
        Unanswered: it raised NotImplementedError, or gave `...`.
    """
    with Double(_count) as double, FaultProxy(double.url) as proxy:
        proxy.script(fault)
        value = with_client(function, proxy.url, *args, call=call)
        chats = [entry.fault for entry in proxy.log if entry.path == CHAT_PATH]
        return value, chats, [asked.body for asked in double.asked]


def _count(asked: Asked) -> Answer:
    pieces = re.findall(r"\d ", TEXT)
    return Answer(pieces=pieces) if asked.body.get("stream") else completion(TEXT)
