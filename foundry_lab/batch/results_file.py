"""The file of a batch's results: locked while in use, checked before, and put in order afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import filelock

from foundry_lab._ground.files import WINDOWS, check_links, create, force_to_disk, no_link, patiently
from foundry_lab.batch.index import Index
from foundry_lab.batch.output import BatchOutput, BatchOutputError
from foundry_lab.batch.result import ID_PREFIX, decode_line, fingerprint_in
from foundry_lab.protocol.reply import UNREADABLE

_LINE_START = b'{"id":"' + ID_PREFIX.encode()


class ResultsFile(BatchOutput):
    """A file, made if it isn't there, and held under a lock until `close`.

    Raises:
        BatchOutputError: the file can't be opened, is in use, or isn't the output of a batch.
    """

    path: Path
    backup: Path

    def __init__(self, path: Path, index: Index, *, ordered: bool = False) -> None:
        self.path = path
        try:
            check_links(path)
            self._real = Path(os.path.realpath(path))  # a link to an output has that output's lock
            if self._real.exists() and not self._real.is_file():
                what = "a folder" if self._real.is_dir() else "a device or a pipe"
                raise BatchOutputError(f"The output {str(path)!r} can't be used: it is {what}. Name a file.")
            self.backup = self._real.with_name(self._real.name + ".bak")
            self._lock = _lock(path, self._real)
            with contextlib.ExitStack() as undo:
                undo.callback(self._unlock)
                super().__init__(undo.enter_context(_open(self._real)), index, ordered=ordered)
                self._end = self._scan()
                undo.pop_all()
        except OSError as error:
            raise BatchOutputError(
                f"The output {str(path)!r} can't be opened: {error.strerror or error}. Choose a file you may "
                "write."
            ) from error

    def tidy(self) -> int:
        """Rewrite the file, where that is needed: one line for each custom_id, in order if asked for.

        The new file takes the old one's place in one step; if it can't be written, the old one stays. Lines
        whose custom_id got the answer to another request are somebody's work: they are added to `backup`,
        below an empty line if it exists, and so are damaged ones. Returns how many.

        Raises:
            BatchOutputError: no room for the new file, or no right to write it.
        """
        replaced = self.found > 0 and self.found + self.lines > self._index.count_lines()
        if not (self._ordered or replaced):
            return 0
        old = self._index.count_old()
        part = self._real.with_name(self._real.name + ".part")
        try:
            if old:
                with open(self.backup, "ab", opener=no_link) as kept:
                    self._copy(self._index.old_places(), kept)
            with create(part) as new:
                self._copy(self._index.places(by_input=self._ordered), new)
            self._file.close()
            patiently(part.replace, self._real)
            _sync_folder(self._real)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            in_use = WINDOWS and isinstance(error, PermissionError)
            do = "Close the program that has it open" if in_use else "Make room there"
            do = "Remove the link" if error.errno == errno.ELOOP else do
            raise BatchOutputError(
                f"Every result is in {self.path}, but it couldn't be put in order ({error.strerror}). {do}, "
                "then run the same batch again: nothing is asked twice."
            ) from error
        return old

    def read(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from file

    def close(self) -> None:
        super().close()
        self._file.close()
        self._index.close()
        self._unlock()

    def _copy(self, places: Iterable[tuple[int, int]], new: BinaryIO) -> None:
        if new.tell():
            new.write(b"\n")  # what is there may have been cut off
        new.writelines(self._lines_at(places))
        new.flush()
        force_to_disk(new.fileno())

    def _check_in_place(self) -> None:
        """Raise BatchOutputError if the name no longer leads to our file."""
        try:
            in_place = os.path.samestat(self._real.stat(), os.fstat(self._file.fileno()))
        except OSError:
            in_place = False
        if not in_place:
            self._failure = self._changed()
            raise self._failure

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):  # still locked: nobody else can have taken it meanwhile
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def _scan(self) -> int:
        """Take note of the lines that are there; cut a half-written last one. Return where the next goes."""
        start = 0
        with self._real.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    begun = line.startswith(_LINE_START) or _LINE_START.startswith(line)
                    if not begun and line.strip(b"\0"):
                        raise self._foreign(number, "it doesn't end as a line does")
                    self._file.truncate(start)
                    break
                try:
                    line.decode()  # all of it: the decoder looks into no text that it doesn't need
                    head = decode_line(line)
                except UNREADABLE as error:
                    if not line.startswith(_LINE_START):
                        raise self._foreign(number, error) from None
                    self._index.put_damaged(start, len(line))
                else:
                    mark = fingerprint_in(head.id)
                    self._index.put_line(head.custom_id, mark, head.error is not None, start, len(line))
                self.found += 1
                start += len(line)
        self._file.seek(start)
        return start

    def _foreign(self, number: int, why: object) -> BatchOutputError:
        return BatchOutputError(
            f"Line {number} of {self.path} is no result of a batch ({why}), and the file was left as it is. "
            "Choose another output, or take that line out."
        )


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
    return lock


def _open(path: Path) -> FileIO:
    is_new = not path.exists()
    file = FileIO(path, "x+b" if is_new else "r+b", opener=no_link)
    if is_new:
        _sync_folder(path)
    return file


def _sync_folder(path: Path) -> None:
    """Make a new or replaced name last; Windows has no such step."""
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
