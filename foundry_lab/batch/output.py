"""The output of a batch: one JSON line a result, appended, synced to disk, and never left half-written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import filelock
import msgspec

from ..errors import FoundryError
from .index import Index
from .result import ID_PREFIX, ErrorPart

SYNC_AGE_S = 0.25
"""A result is forced to disk at most so long after it was written, together with its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LINE_START = b'{"id":"' + ID_PREFIX.encode()


class BatchOutputError(FoundryError):
    """The output of a batch can't be used or written. What was written stays, and stays valid."""


class _Head(msgspec.Struct):
    """What the scan needs of a line."""

    id: str
    custom_id: str
    error: ErrorPart | None


_decode_head = msgspec.json.Decoder(_Head).decode


class BatchOutput:
    """An output file, held under a lock until `close`.

    Args:
        path: the file, made if it isn't there; None takes a temporary one that goes with this object.
        index: takes note of the lines, where that will be needed.
        ordered: `tidy` puts the lines into the order of the input.

    Attributes:
        is_temporary: nobody named a file. backup: where `tidy` keeps lines that it takes out.
        lines: lines written by this run. durable: those of them that are surely on disk.
        on_durable: called with `durable` when it has grown.

    Raises:
        BatchOutputError: the file can't be opened, is in use, or isn't the output of a batch.
    """

    def __init__(self, path: Path | None, index: Index, *, ordered: bool = False) -> None:
        self.is_temporary = path is None
        if path is None:
            folder = tempfile.mkdtemp(prefix="foundry-lab-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            path = Path(folder) / "results.jsonl"
        self.path = path
        self._real = Path(os.path.realpath(path))  # a link to an output has that output's lock
        if self._real.exists() and not self._real.is_file():
            what = "a folder" if self._real.is_dir() else "a device or a pipe"
            raise BatchOutputError(f"The output {str(path)!r} can't be used: it is {what}. Name a file.")
        self.backup = self._real.with_name(self._real.name + ".bak")
        self._index = index
        self._ordered = ordered
        self.lines = self.durable = 0
        self.on_durable: Callable[[int], None] = _ignore
        self._found = 0
        self._failure: BatchOutputError | None = None
        self._dirty = asyncio.Event()
        self._lock = _lock(path, self._real)
        try:
            self._file = _open(self._real)
            self._end = self._scan()
        except BaseException:
            self._unlock()
            raise
        self._thread = ThreadPoolExecutor(1, "batch output")

    @property
    def found(self) -> int:
        """Lines that were there when it was opened."""
        return self._found

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
        if self._ordered or self._found:
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
                await asyncio.get_running_loop().run_in_executor(self._thread, os.fsync, self._file.fileno())
            except OSError as error:
                raise self._stopped(error) from error
            self._check_in_place()
            self._count(lines)

    def sync(self) -> None:
        """Force everything to disk now. Raises BatchOutputError if the disk fails or the file has gone."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._stopped(error) from error
        self._check_in_place()
        self._count(self.lines)

    def tidy(self) -> int:
        """Rewrite the file, where that is needed: one line for each custom_id, in order if asked for.

        The new file takes the old one's place in one step; if it can't be written, the old one stays. Lines
        whose custom_id got the answer to another request are somebody's work: they are added to `backup`,
        below an empty line if it exists. Returns how many.

        Raises:
            BatchOutputError: no room for the new file, or no right to write it.
        """
        replaced = self._found > 0 and self._found + self.lines > self._index.count_lines()
        if not (self._ordered or replaced):
            return 0
        old = self._index.count_old()
        part = self._real.with_name(self._real.name + ".part")
        try:
            if old:
                self._copy(self._index.old_places(), self.backup, "ab")
            self._copy(self._index.places(by_input=self._ordered), part, "wb")
            self._file.close()
            part.replace(self._real)
            _sync_folder(self._real)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise BatchOutputError(
                f"Every result is in {self.path}, but it couldn't be put in order ({error.strerror}). Make "
                "room there, then run the same batch again: nothing is asked twice."
            ) from error
        return old

    def close(self) -> None:
        """Let go of the file and of its lock."""
        self.on_durable = _ignore
        self._thread.shutdown(wait=True)
        self._file.close()
        self._unlock()

    def _copy(self, places: Iterable[tuple[int, int]], path: Path, mode: str) -> None:
        with path.open(mode) as new:
            if new.tell():
                new.write(b"\n")  # what is there may have been cut off
            for start, length in places:
                self._file.seek(start)
                new.write(_read(self._file, length))
            new.flush()
            os.fsync(new.fileno())

    def _check_in_place(self) -> None:
        """Raise BatchOutputError if the name no longer leads to our file: what we write would be lost."""
        try:
            in_place = os.path.samestat(self._real.stat(), os.fstat(self._file.fileno()))
        except OSError:
            in_place = False
        if not in_place:
            self._failure = self._changed()
            raise self._failure

    def _count(self, lines: int) -> None:
        if lines > self.durable:
            self.durable = lines
            self.on_durable(lines)

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):  # still locked: nobody else can have taken it meanwhile
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _scan(self) -> int:
        """Take note of the lines that are there; cut a half-written last one. Return where the next goes."""
        start = 0
        for number, line in enumerate(self._file_lines(), 1):
            if not line.endswith(b"\n"):
                if not (
                    line.startswith(_LINE_START) or _LINE_START.startswith(line) or not line.strip(b"\0")
                ):
                    raise self._foreign(number, "it doesn't end as a line does")
                self._file.truncate(start)
                break
            try:
                head = _decode_head(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._foreign(number, error) from None
            fingerprint = head.id.removeprefix(ID_PREFIX)
            self._index.put_line(head.custom_id, fingerprint, head.error is not None, start, len(line))
            self._found += 1
            start += len(line)
        self._file.seek(start)
        return start

    def _file_lines(self) -> Iterator[bytes]:
        with self._real.open("rb") as file:
            yield from file

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
        return BatchOutputError(
            f"The batch stopped because {self.path} can't be written: {what}. The {self.lines} results of "
            f"this run before that are in it. {do}, then run the same batch again to go on."
        )

    def _changed(self) -> BatchOutputError:
        return BatchOutputError(
            f"The batch stopped because another program removed, replaced or changed {self.path} while it "
            "ran. Leave that file to the batch and run it again: what isn't in the file is asked again."
        )


def _ignore(durable: int) -> None:
    """Nobody shows the progress."""


def _lock(path: Path, real: Path) -> filelock.BaseFileLock:
    if not real.parent.is_dir():
        raise BatchOutputError(f"The folder of the output {str(path)!r} doesn't exist; make it first.")
    lock = filelock.FileLock(real.with_name(f".{real.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BatchOutputError(
            f"Another batch is writing to {path}. Wait until it has ended, or choose another output."
        ) from None
    except OSError as error:
        raise _unusable(path, error) from error
    return lock


def _open(path: Path) -> FileIO:
    try:
        is_new = not path.exists()
        file = path.open("x+b" if is_new else "r+b", buffering=0)
        if is_new:
            _sync_folder(path)
        return file
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> BatchOutputError:
    return BatchOutputError(
        f"The output {str(path)!r} can't be opened: {error.strerror or error}. Choose a file you may write."
    )


def _read(file: FileIO, length: int) -> bytes:
    parts = b""
    while len(parts) < length and (data := file.read(length - len(parts))):
        parts += data
    return parts


def _sync_folder(path: Path) -> None:
    """Make a new or replaced name last; Windows has no such step."""
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
