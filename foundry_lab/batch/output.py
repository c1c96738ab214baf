"""Where a batch's results go: a JSON line a result, appended, synced to disk, and never left half-written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

from foundry_lab._ground.files import force_to_disk
from foundry_lab.batch.index import Index
from foundry_lab.errors import FoundryError

SYNC_AGE_S = 0.25
"""A result is forced to disk at most so long after it was written, together with its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BatchOutputError(FoundryError):
    """The output of a batch can't be used or written. What was written stays, and stays valid."""


class BatchOutput:
    """Results in an open file, written until `close`: a nameless file here, a named one in `ResultsFile`.

    Args:
        file: unbuffered, and positioned where the next line goes. It is closed with this object.
        index: takes note of the lines, where that will be needed.
        ordered: the results are to be in the order of the input.

    Attributes:
        path: the file somebody named, or None. backup: where `tidy` keeps lines that it takes out of it.
        lines: lines written by this run. found: lines that were there when it was opened.
    """

    path: Path | None = None
    backup: Path | None = None

    def __init__(self, file: FileIO, index: Index, *, ordered: bool) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._end = file.tell()
        self._index = index
        self._ordered = ordered
        self.lines = self.found = 0
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
            written = self._file.write(line)
            while written < len(line):  # a nearly full disk takes a part
                written += self._file.write(line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            self._failure = self._stopped(error)
            raise self._failure from error
        if self.path is None or self._ordered or self.found:
            self._index.put_line(custom_id, fingerprint, failed, self._end, len(line))
        self._end += len(line)
        self.lines += 1
        self._dirty.set()

    async def keep_synced(self, on_durable: Callable[[int], None]) -> None:
        """Sync in groups until cancelled; `on_durable` learns how many lines of this run are on disk.

        Raises:
            BatchOutputError: the disk failed, or the file has gone.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SYNC_AGE_S)
            self._dirty.clear()
            on_durable(await loop.run_in_executor(self._thread, self.sync))

    def sync(self) -> int:
        """Force to disk what is written; return how many lines of this run are there now.

        Raises:
            BatchOutputError: the disk failed, or the file has gone.
        """
        lines = self.lines  # others may be written meanwhile
        try:
            force_to_disk(self._file.fileno())
        except OSError as error:
            raise self._stopped(error) from error
        self._check_in_place()
        return lines

    def tidy(self) -> int:
        """Put the lines in order, if asked for; return how many results of other requests were taken out.

        A nameless file stays as it is: `read` knows the order.

        Raises:
            BatchOutputError: no room for that, or no right to do it.
        """
        return 0

    def read(self) -> Iterator[bytes]:
        """Read the lines, one by one, also after `close`. Raises OSError if that isn't possible."""
        if not hasattr(self, "_file"):
            raise OSError(
                "only the report that the batch returned has them; name an output= to read them elsewhere"
            )
        yield from self._lines_at(self._index.places(by_input=self._ordered))

    def close(self) -> None:
        """Let go of the file, but for `read`."""
        self._thread.shutdown(wait=True)

    def _lines_at(self, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        for start, length in places:
            self._file.seek(start)
            line = self._file.read(length)
            while len(line) < length and (more := self._file.read(length - len(line))):
                line += more
            yield line

    def _check_in_place(self) -> None:
        """Raise BatchOutputError if what is written would be lost; a nameless file nobody else can remove."""

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


def nameless_output(index: Index, *, ordered: bool = False) -> BatchOutput:
    """Return an output for results that nobody named a file for.

    They go with it, even if the process is killed: the system itself removes the temporary file.

    Raises:
        BatchOutputError: there is no room for temporary files.
    """
    try:
        return BatchOutput(tempfile.TemporaryFile(buffering=0), index, ordered=ordered)
    except OSError as error:
        raise BatchOutputError(
            f"There is no place for the results: no temporary file can be made "
            f"({error.strerror or error}). Make room, or name a file with output=."
        ) from error
