"""One-liners for a first cell: a shared client, so that nobody has to make one to say hello."""

from __future__ import annotations

import functools
from typing import Unpack

from .chat import ChatOptions
from .sync_client import SyncFoundryAPIClient
from .sync_stream import SyncCompletionStream
from .types import Completion


@functools.cache
def _client() -> SyncFoundryAPIClient:
    return SyncFoundryAPIClient()


def complete(prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
    """Return one whole answer from the service that the environment or the engine names.

    Raises:
        FoundryError: as `SyncFoundryAPIClient.complete`.
    """
    return _client().complete(prompt, **options)


def stream(prompt: str | None = None, **options: Unpack[ChatOptions]) -> SyncCompletionStream:
    """Return an answer to iterate over as it is written.

    Raises:
        FoundryError: as `SyncFoundryAPIClient.stream_complete`.
    """
    return _client().stream_complete(prompt, **options)
