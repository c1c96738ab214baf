"""Which result stands where, on disk: a batch of millions needs no more memory than one of hundreds."""

import sqlite3
import weakref
from collections.abc import Iterator

from foundry_lab.errors import FoundryError

CACHE_KIB = 2048


class BatchOutputError(FoundryError):
    """The output of a batch can't be used or written. What was written stays, and stays valid."""


class Index:
    """The custom_ids of the input and the result lines of the output, in a scratch database.

    SQLite keeps a database without a name in memory up to its cache size, and beyond that in a file that it
    deletes by itself (https://www.sqlite.org/inmemorydb.html, "Temporary Databases").

    Raises:
        BatchOutputError: from every method, when there is no room for that file.
    """

    def __init__(self) -> None:
        self._last = 0  # number of an item
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.executescript(
            f"""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE item (custom_id TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
            CREATE TABLE line (custom_id TEXT PRIMARY KEY, fingerprint, failed, start, length) WITHOUT ROWID;
            CREATE TABLE old (start, length);
            BEGIN;
            """
        )

    def add_item(self, custom_id: str, number: int) -> int:
        """Take note of an input item; return the number of the first that had its name."""
        find = "SELECT number FROM item WHERE custom_id = ?"
        if number <= self._last and (row := self._run(find, custom_id).fetchone()) is not None:
            return int(row[0])  # the input is gone through again
        self._last = max(number, self._last)
        added = self._run("INSERT OR IGNORE INTO item VALUES (?, ?)", custom_id, number)
        return number if added.rowcount == 1 else self._number(find, custom_id)

    def put_line(self, custom_id: str, fingerprint: str, failed: bool, start: int, length: int) -> None:
        """Take note of a result line, which replaces an earlier one of the same name."""
        self._run(
            "INSERT INTO old SELECT start, length FROM line WHERE custom_id = ? AND fingerprint != ?",
            custom_id,
            fingerprint,
        )
        line = (custom_id, fingerprint, failed, start, length)
        self._run("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?)", *line)

    def put_damaged(self, start: int, length: int) -> None:
        """Take note of a result line that can't be read any more: it answers nothing."""
        self._run("INSERT INTO old VALUES (?, ?)", start, length)

    def line_of(self, custom_id: str) -> tuple[str, bool] | None:
        """Return fingerprint and failed of the result of that name, None without one."""
        row: tuple[str, bool] | None = self._run(
            "SELECT fingerprint, failed FROM line WHERE custom_id = ?", custom_id
        ).fetchone()
        return row

    def count_lines(self) -> int:
        """Return how many different custom_ids have a result."""
        return self._number("SELECT count(*) FROM line")

    def count_old(self) -> int:
        """Return how many lines were replaced by the answer to another request, or are damaged."""
        return self._number("SELECT count(*) FROM old")

    def old_places(self) -> Iterator[tuple[int, int]]:
        """Return start and length of those lines, in the order of the file."""
        return self._run("SELECT start, length FROM old ORDER BY start")

    def places(self, *, by_input: bool) -> Iterator[tuple[int, int]]:
        """Return start and length of every line that counts, in the order of the input or of the file."""
        order = "number IS NULL, number, start" if by_input else "start"
        return self._run(f"SELECT start, length FROM line LEFT JOIN item USING (custom_id) ORDER BY {order}")

    def close(self) -> None:
        """Drop it all."""
        self._db.close()

    def _number(self, query: str, *values: str) -> int:
        return int(self._run(query, *values).fetchone()[0])

    def _run(self, query: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.OperationalError as error:
            raise BatchOutputError(
                f"The batch can't note what is done in a temporary file ({error}). Make room for temporary "
                "files, then run the same batch again: what is in its output isn't asked again."
            ) from error
