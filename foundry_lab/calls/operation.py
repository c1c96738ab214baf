"""Operations: what a client does, as generators without I/O.

An operation yields a `Call` to have it sent and gets the `Reply`; it yields a `Pause` to wait; what it
returns is the caller's typed result. Errors of the sending are raised at the `yield`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from foundry_lab.protocol import Call

T = TypeVar("T")


class Pause(msgspec.Struct, frozen=True):
    """Wait so many seconds, then go on."""

    seconds: float


Operation = Generator[Call | Pause, Any, T]
"""What is sent in is the `Reply` to a `Call` and nothing after a `Pause`; no type can say that, hence Any."""
