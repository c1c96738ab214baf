"""Both clients behind one face of plain calls, so that one test can hold them to the same behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from foundry_lab import FoundryAPIClient, SyncFoundryAPIClient
from foundry_lab.types import Chunk

both_clients = pytest.mark.parametrize("kind", ["async", "sync"])


class Client:
    """One of the two clients, driven from plain code. Ends with its `with` block.

    Attributes:
        raw: the client itself.
    """

    def __init__(self, kind: str, url: str | None, **kwargs: Any) -> None:
        self._runner = asyncio.Runner() if kind == "async" else None
        self.raw: Any = (FoundryAPIClient if self._runner else SyncFoundryAPIClient)(url, **kwargs)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish(self.raw.close())
        if self._runner:
            self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.raw, name)
        return lambda *args, **kwargs: self._finish(method(*args, **kwargs))

    def _finish(self, result: Any) -> Any:
        return self._runner.run(result) if self._runner and asyncio.iscoroutine(result) else result

    def open(self, prompt: str = "hi", **options: Any) -> Any:
        """Return the stream object, not yet begun."""
        return self.raw.stream_complete(prompt, **options)

    def next(self, stream: Any) -> Chunk:
        """Return the stream's next chunk."""
        chunk: Chunk = self._runner.run(_step(stream)) if self._runner else next(stream)
        return chunk

    def leave(self, stream: Any) -> None:
        """Close a stream."""
        self._finish(stream.aclose() if self._runner else stream.close())

    def read(self, stream: Any) -> list[Chunk]:
        """Read a stream to its end."""
        return self._runner.run(_collect(stream)) if self._runner else list(stream)

    def stream_text(self, prompt: str = "hi", **options: Any) -> str:
        """Return the whole text of a streamed answer."""
        return "".join(chunk.content for chunk in self.read(self.open(prompt, **options)))

    def ask(self, how: str, **options: Any) -> str:
        """Ask by "complete" or by "stream"; return the text."""
        return self.complete("hi", **options).content if how == "complete" else self.stream_text(**options)


async def _step(stream: Any) -> Chunk:
    return await anext(stream)


async def _collect(stream: Any) -> list[Chunk]:
    return [chunk async for chunk in stream]
