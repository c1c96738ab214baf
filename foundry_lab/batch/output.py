"""Where a batch's results go: a JSON line a result, appended, synced to disk, and never left half-written."""

import asyncio
import contextlib
import errno
import os
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from foundry_lab._ground.files import WINDOWS, check_links, force_to_disk, no_link, replacing
from foundry_lab.batch.index import BatchOutputError, Index
from foundry_lab.batch.result import ID_PREFIX, decode_line, fingerprint_in
from foundry_lab.protocol.reply import UNREADABLE

SYNC_AGE_S = 0.25
"""A result is forced to disk at most so long after it was written, together with its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LINE_START = b'{"id":"' + ID_PREFIX.encode()


class BatchOutput:
    """Results in a file, written until `close`: one that somebody named, under a lock, or a nameless one.

    A nameless file goes with this object, even if the process is killed: the system itself removes it.

    Args:
        path: the file, made if it isn't there; None for a nameless one.
        index: takes note of the lines, where that will be needed.
        ordered: the results are to be in the order of the input.

    Attributes:
        path: the file somebody named, or None. backup: where `tidy` keeps lines that it takes out of it.
        lines: lines written by this run. found: lines that were there when it was opened.

    Raises:
        BatchOutputError: the file can't be opened, is in use, or isn't the output of a batch; or there is no
            room for temporary files.
    """

    def __init__(self, path: Path | None, index: Index, *, ordered: bool = False) -> None:
        self.path = path
        self.backup: Path | None = None
        self.lines = self.found = self._end = 0
        self._index = index
        self._ordered = ordered
        self._failure: BatchOutputError | None = None
        self._dirty = asyncio.Event()
        self._reading = threading.Lock()
        with contextlib.ExitStack() as held:
            self._file: FileIO = _nameless() if path is None else self._hold(path, held)
            weakref.finalize(self, self._file.close)
            self._held = held.pop_all()

    def _hold(self, path: Path, held: contextlib.ExitStack) -> FileIO:
        """Lock and open the file, and take note of the lines in it; `held` is what to undo in the end."""
        try:
            check_links(path)
            real = self._real = Path(os.path.realpath(path))  # a link to an output has that output's lock
            if real.exists() and not real.is_file():
                what = "a folder" if real.is_dir() else "a device or a pipe"
                raise BatchOutputError(f"The output {str(path)!r} can't be used: it is {what}. Name a file.")
            if not real.parent.is_dir():
                raise BatchOutputError(
                    f"The folder of the output {str(path)!r} doesn't exist; make it first."
                )
            self.backup = real.with_name(real.name + ".bak")
            lock = filelock.FileLock(real.with_name(f".{real.name}.lock"), timeout=0)
            lock.acquire()
            held.callback(_unlock, lock)
            held.callback(self._index.close)
            file = held.enter_context(FileIO(real, "a+b", opener=no_link))
            _sync_folder(real)
            self._scan(file)
        except filelock.Timeout:
            raise BatchOutputError(
                f"Another batch is writing to {path}. Wait until it has ended, or choose another output."
            ) from None
        except OSError as error:
            raise BatchOutputError(
                f"The output {str(path)!r} can't be opened: {error.strerror or error}. Choose a file you may "
                "write."
            ) from error
        return file

    def __getstate__(self) -> dict[str, Any]:
        # What a report needs in another process.
        return {name: value for name, value in vars(self).items() if name in ("path", "_real", "backup")}

    def write(self, custom_id: str, fingerprint: str, failed: bool, line: bytes) -> None:
        """Append one line. It survives the end of this process at once, and a power cut after the next sync.

        Raises:
            BatchOutputError: it couldn't be written, or an earlier one couldn't, or somebody else changed the
                file; what was there before is untouched.
        """
        if self._failure is not None:
            raise self._failure
        if self._file.seek(0, os.SEEK_END) != self._end:  # cut by somebody: writing on would leave a hole
            raise self._changed()
        try:
            written = self._file.write(line)
            while written < len(line):  # a nearly full disk takes a part
                written += self._file.write(line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise self._stopped(error) from error
        start = self._end
        self._end += len(line)
        self.lines += 1
        self._dirty.set()
        if self.path is None or self._ordered or self.found:
            self._index.put_line(custom_id, fingerprint, failed, start, len(line))

    async def keep_synced(self, on_durable: Callable[[int], None]) -> None:
        """Sync in groups until cancelled; `on_durable` learns how many lines of this run are on disk.

        Raises:
            BatchOutputError: the disk failed, or the file has gone.
        """
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SYNC_AGE_S)
            self._dirty.clear()
            on_durable(await asyncio.to_thread(self.sync))

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
        if self.path is not None and not self._is_in_place():
            raise self._changed()
        return lines

    def tidy(self) -> int:
        """Rewrite a named file, where that is needed: one line for each custom_id, in order if asked for.

        The new file takes the old one's place in one step; if it can't be written, the old one stays. Lines
        whose custom_id got the answer to another request are somebody's work: they are added to `backup`,
        below an empty line if it exists, and so are damaged ones. Returns how many.

        Raises:
            BatchOutputError: no room for the new file, or no right to write it.
        """
        replaced = self.found > 0 and self.found + self.lines > self._index.count_lines()
        if self.backup is None or not (self._ordered or replaced):
            return 0
        old = self._index.count_old()
        try:
            if old:
                with open(self.backup, "ab", opener=no_link) as kept:
                    self._copy(self._index.old_places(), kept)
            with replacing(self._real) as new:
                self._copy(self._index.places(by_input=self._ordered), new)
                self._file.close()  # Windows replaces no file that is open
            _sync_folder(self._real)
        except OSError as error:
            in_use = WINDOWS and isinstance(error, PermissionError)
            do = "Close the program that has it open" if in_use else "Make room there"
            do = "Remove the link" if error.errno == errno.ELOOP else do
            raise BatchOutputError(
                f"Every result is in {self.path}, but it couldn't be put in order ({error.strerror}). {do}, "
                "then run the same batch again: nothing is asked twice."
            ) from error
        return old

    def read(self) -> Iterator[bytes]:
        """Read the lines, one by one, also after `close`. Raises OSError if that isn't possible."""
        if self.path is not None:
            with self._real.open("rb") as file:  # wherever this process has moved to
                yield from file
        elif hasattr(self, "_file"):
            with self._reading:  # two threads that begin at once would get one cursor
                places = self._index.places(by_input=self._ordered)
            yield from self._lines_at(places)
        else:
            raise OSError(
                "only the report that the batch returned has them; name an output= to read them elsewhere"
            )

    def close(self) -> None:
        """Let go of a named file; a nameless one stays for `read`."""
        self._held.close()

    def _copy(self, places: Iterable[tuple[int, int]], new: BinaryIO) -> None:
        if new.tell():
            new.write(b"\n")  # what is there may have been cut off
        elif not WINDOWS:
            with contextlib.suppress(OSError):  # a file system that knows no rights
                os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
        new.writelines(self._lines_at(places))
        new.flush()
        force_to_disk(new.fileno())

    def _lines_at(self, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        places = iter(places)
        while True:
            with self._reading:  # threads may read at once, from one file and one connection to the index
                place = next(places, None)
                if place is None:
                    return
                start, length = place
                self._file.seek(start)
                line = self._file.read(length)
            yield line

    def _is_in_place(self) -> bool:
        """Say whether the name still leads to our file; else what is written would be lost."""
        try:
            return os.path.samestat(self._real.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def _scan(self, file: FileIO) -> None:
        """Take note of the lines that are there; cut a half-written last one."""
        with self._real.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    begun = line.startswith(_LINE_START) or _LINE_START.startswith(line)
                    if not begun and line.strip(b"\0"):
                        raise self._foreign(number, "it doesn't end as a line does")
                    file.truncate(self._end)
                    break
                try:
                    line.decode()  # all of it: the decoder looks into no text that it doesn't need
                    head = decode_line(line)
                except UNREADABLE as error:
                    if not line.startswith(_LINE_START):
                        raise self._foreign(number, error) from None
                    self._index.put_damaged(self._end, len(line))
                else:
                    mark, failed = fingerprint_in(head.id), head.error is not None
                    self._index.put_line(head.custom_id, mark, failed, self._end, len(line))
                self.found += 1
                self._end += len(line)

    def _foreign(self, number: int, why: object) -> BatchOutputError:
        return BatchOutputError(
            f"Line {number} of {self.path} is no result of a batch ({why}), and the file was left as it is. "
            "Choose another output, or take that line out."
        )

    def _stopped(self, error: OSError) -> BatchOutputError:
        if error.errno in _FULL:
            what, do = "there is no room on the disk", "Make room"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            what, do = "writing isn't allowed any more", "Allow it again"
        else:
            what, do = f"the disk says: {error.strerror or error}", "Check the disk"
        self._failure = BatchOutputError(
            f"The batch stopped because {self.path or 'a temporary file'} can't be written: {what}. The "
            f"{self.lines} results of this run before that are in it. {do}, then run the same batch again"
            + (" to go on." if self.path else ", with an output of its own, so that it can go on.")
        )
        return self._failure

    def _changed(self) -> BatchOutputError:
        self._failure = BatchOutputError(
            f"The batch stopped because another program removed, replaced or changed {self.path} while it "
            "ran. Leave that file to the batch and run it again: what isn't in the file is asked again."
        )
        return self._failure


def _nameless() -> FileIO:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise BatchOutputError(
            f"There is no place for the results: no temporary file can be made "
            f"({error.strerror or error}). Make room, or name a file with output=."
        ) from error


def _unlock(lock: filelock.BaseFileLock) -> None:
    with contextlib.suppress(OSError):  # still locked: nobody else can have taken it meanwhile
        Path(lock.lock_file).unlink()
    lock.release()


def _sync_folder(path: Path) -> None:
    """Make a new or replaced name last; Windows has no such step."""
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
