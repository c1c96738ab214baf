"""Where a batch's results go: a JSON line a result, appended, synced to disk, and never left half-written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import IO, Any

from foundry_lab._ground.files import force_to_disk
from foundry_lab.batch.index import Index
from foundry_lab.errors import FoundryError

SYNC_AGE_S = 0.25
"""A result is forced to disk at most so long after it was written, together with its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BatchOutputError(FoundryError):
    """The output of a batch can't be used or written. What was written stays, and stays valid."""


class BatchOutput(ABC):
    """An output that is open for writing until `close`; `ResultsFile` and `ScratchOutput` are the two kinds.

    Args:
        file: unbuffered, and positioned where the next line goes.
        index: takes note of the lines, where that will be needed.
        ordered: `tidy` puts the lines into the order of the input.

    Attributes:
        path: the file somebody named, or None. backup: where `tidy` keeps lines that it takes out of it.
        lines: lines written by this run. durable: those of them that are surely on disk.
        found: lines that were there when it was opened.
        on_durable: called with `durable` when it has grown.
    """

    path: Path | None = None
    backup: Path | None = None

    def __init__(self, file: FileIO, index: Index, *, ordered: bool) -> None:
        self._file = file
        self._end = file.tell()
        self._index = index
        self._ordered = ordered
        self.lines = self.durable = self.found = 0
        self.on_durable: Callable[[int], None] = _ignore
        self._failure: BatchOutputError | None = None
        self._dirty = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "batch output")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "backup": self.backup}  # what a report needs in another process

    def write(self, custom_id: str, fingerprint: str, failed: bool, line: bytes) -> None:
        """Append one line. It survives the end of this process at once, and a power cut after the next sync.

        Raises:
            BatchOutputError: it couldn't be written, or an earlier one couldn't, or somebody else changed the
                file; what was there before is untouched.
        """
        if self._failure is not None:
            raise self._failure
        if self._file.seek(0, os.SEEK_END) != self._end:  # cut by somebody: writing on would leave a hole
            self._failure = self._changed()
            raise self._failure
        try:
            _write(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            self._failure = self._stopped(error)
            raise self._failure from error
        if self._ordered or self.found:
            self._index.put_line(custom_id, fingerprint, failed, self._end, len(line))
        self._end += len(line)
        self.lines += 1
        self._dirty.set()

    async def keep_synced(self) -> None:
        """Sync in groups until cancelled.

        Raises:
            BatchOutputError: the disk failed.
        """
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SYNC_AGE_S)
            self._dirty.clear()
            lines = self.lines
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._thread, force_to_disk, self._file.fileno()
                )
            except OSError as error:
                raise self._stopped(error) from error
            self._check_in_place()
            self._count(lines)

    def sync(self) -> None:
        """Force everything to disk now. Raises BatchOutputError if the disk fails or the file has gone."""
        try:
            force_to_disk(self._file.fileno())
        except OSError as error:
            raise self._stopped(error) from error
        self._check_in_place()
        self._count(self.lines)

    @abstractmethod
    def tidy(self) -> int:
        """Put the lines in order, if asked for; return how many results of other requests were taken out.

        Raises:
            BatchOutputError: no room for that, or no right to do it.
        """

    @abstractmethod
    def read(self) -> Iterator[bytes]:
        """Read the lines, one by one, also after `close`. Raises OSError if that isn't possible."""

    def close(self) -> None:
        """Let go of the file, but for `read`."""
        self.on_durable = _ignore
        self._thread.shutdown(wait=True)

    def _copy(self, places: Iterable[tuple[int, int]], new: IO[bytes] | FileIO) -> None:
        for start, length in places:
            self._file.seek(start)
            _write(new, _read(self._file, length))

    @abstractmethod
    def _check_in_place(self) -> None:
        """Raise BatchOutputError if what is written would be lost."""

    def _count(self, lines: int) -> None:
        if lines > self.durable:
            self.durable = lines
            self.on_durable(lines)

    def _stopped(self, error: OSError) -> BatchOutputError:
        if error.errno in _FULL:
            what, do = "there is no room on the disk", "Make room"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            what, do = "writing isn't allowed any more", "Allow it again"
        else:
            what, do = f"the disk says: {error.strerror or error}", "Check the disk"
        return BatchOutputError(
            f"The batch stopped because {self.path or 'a temporary file'} can't be written: {what}. The "
            f"{self.lines} results of this run before that are in it. {do}, then run the same batch again"
            + (" to go on." if self.path else ", with an output of its own, so that it can go on.")
        )

    def _changed(self) -> BatchOutputError:
        return BatchOutputError(
            f"The batch stopped because another program removed, replaced or changed {self.path} while it "
            "ran. Leave that file to the batch and run it again: what isn't in the file is asked again."
        )


def _ignore(durable: int) -> None:
    """Nobody shows the progress."""


def _write(file: IO[bytes] | FileIO, data: bytes) -> None:
    written = file.write(data)
    while written < len(data):  # a nearly full disk takes a part
        written += file.write(data[written:])


def _read(file: FileIO, length: int) -> bytes:
    parts = b""
    while len(parts) < length and (data := file.read(length - len(parts))):
        parts += data
    return parts
