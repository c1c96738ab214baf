"""The two streams: one reader behind `async for` and behind a plain `for`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager

from foundry_lab.calls import portal
from foundry_lab.calls.stream_reader import StreamReader
from foundry_lab.types import Chunk


class CompletionStream(StreamReader, AsyncIterator[Chunk], AbstractAsyncContextManager["CompletionStream"]):
    """One streamed answer. Iterate over it; its text, times and usage are attributes.

    The connection is given back when the answer is complete. It is closed, which stops the generation at the
    service, when the iteration fails or is cancelled, at `aclose()`, at the end of an `async with` block, and
    when nobody holds the stream any more (a `break` out of a plain loop).
    """

    async def __anext__(self) -> Chunk:
        if not self._ready and not self._ended:
            await self._fill()
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; the service stops generating."""
        await self._stop()


class SyncCompletionStream(StreamReader, Iterator[Chunk], AbstractContextManager["SyncCompletionStream"]):
    """One streamed answer. Iterate over it; its text, times and usage are attributes.

    The connection is given back when the answer is complete. It is closed, which stops the generation at the
    service, when the iteration fails, at `close()`, at the end of a `with` block, and when nobody holds the
    stream any more (a `break` out of a plain loop).
    """

    def __next__(self) -> Chunk:
        if not self._ready and not self._ended:
            portal.wait(self._fill())  # brings all chunks that are there: a turn of the loop for each read
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the service stops generating."""
        if self._ended:
            self._leave()
        else:
            portal.wait(self._stop())  # in the loop's thread, which the connection belongs to
