"""The sync stream: the async one's behaviour in a plain `for` loop."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from foundry_lab.calls import portal
from foundry_lab.calls.async_stream import StreamReader
from foundry_lab.types import Chunk


class SyncCompletionStream(StreamReader):
    """One streamed answer. Iterate over it; its text, times and usage are attributes.

    The connection is given back when the answer is complete. It is closed, which stops the generation at the
    service, when the iteration fails, at `close()`, at the end of a `with` block, and when nobody holds the
    stream any more (a `break` out of a plain loop).
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        if not self._ready and not self._ended:
            portal.wait(self._fill())  # brings all chunks that are there: a turn of the loop for each read
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the service stops generating."""
        self._ready.clear()
        if self._response is not None:
            portal.wait(self._stop())
        self._end(GeneratorExit())

    def __del__(self) -> None:
        if self._response is not None:
            portal.call(self._end, GeneratorExit())

    async def _stop(self) -> None:
        self._end(GeneratorExit())  # in the loop's thread, which the connection belongs to
