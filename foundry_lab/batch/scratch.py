"""Where a batch's results go when nobody named a file: a temporary one that has no name."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from io import FileIO

from foundry_lab.batch.index import Index
from foundry_lab.batch.output import BatchOutput, BatchOutputError

_CHUNK = 1 << 20


class ScratchOutput(BatchOutput):
    """Results that nobody named a file for. They go with this object, even if the process is killed.

    Raises:
        BatchOutputError: there is no room for temporary files.
    """

    def __init__(self, index: Index, *, ordered: bool = False) -> None:
        try:
            file = _nameless()
        except OSError as error:
            raise BatchOutputError(
                f"There is no place for the results: no temporary file can be made "
                f"({error.strerror or error}). Make room, or name a file with output=."
            ) from error
        super().__init__(file, index, ordered=ordered)
        self._let_go = weakref.finalize(self, self._file.close)

    def tidy(self) -> int:
        if self._ordered:
            try:
                with contextlib.ExitStack() as undo:
                    new = undo.enter_context(_nameless())
                    self._copy(self._index.places(by_input=True), new)
                    undo.pop_all()
            except OSError as error:
                raise BatchOutputError(
                    "Every answer is in this error's .report, but they couldn't be put in order "
                    f"({error.strerror or error}). Make room for temporary files, or name an output=."
                ) from error
            self._let_go()
            self._file = new
            self._let_go = weakref.finalize(self, new.close)
        return 0

    def _check_in_place(self) -> None:
        """Nobody else can remove a file without a name."""

    def read(self) -> Iterator[bytes]:
        if not hasattr(self, "_file"):
            raise OSError(
                "only the report that the batch returned has them; name an output= to read them elsewhere"
            )
        place, rest = 0, b""
        while place < self._end:
            self._file.seek(place)
            chunk = self._file.read(_CHUNK)
            place += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def _nameless() -> FileIO:
    return tempfile.TemporaryFile(buffering=0)  # the system itself removes it
