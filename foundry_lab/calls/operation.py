"""Operations: what a client does, as generators without I/O.

An operation yields a `Call` to have it sent and gets the `Reply`; it yields a `Pause` to wait; what it returns is the
caller's typed result. Errors of the sending are raised at the `yield`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import msgspec

from foundry_lab.protocol import Call, Reply

T = TypeVar("T")


class Pause(msgspec.Struct, frozen=True):
    """Wait so many seconds, then go on."""

    seconds: float


Operation = Generator[Call | Pause, Reply | None, T]


def send(call: Call) -> Operation[Reply]:
    """Have one call sent; return its reply."""
    reply = yield call
    assert reply is not None, "the driver answers a Call with a Reply"
    return reply
