"""Response cache: answer a request that was answered before, without asking the service again.

Only deterministic requests are cached (temperature 0, or a seed), and only whole answers are kept. One SQLite
database holds them, in memory or in a file that several processes may share. A cache that fails (disk full,
file locked) costs speed and never an answer.
"""

import asyncio
import hashlib
import logging
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from foundry_lab._ground.checks import check_count, check_function, check_seconds
from foundry_lab._ground.files import as_path, check_links
from foundry_lab._ground.forks import keep_unused, renew_after_fork
from foundry_lab.errors import ConfigurationError, FoundryError
from foundry_lab.policies.retry import Deadline
from foundry_lab.protocol import Call, Reply, parse_completion

APPLICATION_ID = 0x464C4331  # "FLC1", in the file's header: we touch no other program's database
RECOUNT_EVERY = 256
OPEN_S, BUSY_MS = 2.0, 50
"""How long to wait for another program's lock: on opening, and later, when an event loop waits with us."""
USED_WITHIN_S = 60.0
"""How exact `used_at` is: a hit is not worth a write when the one before was so recent."""
YOUNG = "SELECT body, used_at FROM answer WHERE key = ? AND stored_at >= ?"
OLDEST_OTHER = "key = (SELECT key FROM answer WHERE key != ? ORDER BY used_at LIMIT 1)"

_log = logging.getLogger(__name__)
_canonical = msgspec.json.Encoder(order="deterministic")


class CacheStats(msgspec.Struct, frozen=True):
    """What a cache did since it was opened.

    Attributes:
        hits: requests answered without the service.
        shared: those of the hits that waited for an equal request under way.
        misses: cacheable requests that went to the service.
        entries: answers held now.
        bytes: their size.
    """

    hits: int
    shared: int
    misses: int
    entries: int
    bytes: int


class ResponseCache:
    """Answers by request. Give it to one client or to several, in any thread: `FoundryAPIClient(cache=…)`.

    Args:
        path: an SQLite file, made if it isn't there; None keeps the answers in memory.
        max_entries: the least recently used answers go when there are more.
        max_bytes: the same for the size of all answers together.
        max_age_s: older answers aren't used; None keeps them for ever.
        keep_length: also keep answers that ended at max_tokens (finish_reason "length").
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: a limit that makes no sense, or a file that is no cache or can't be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_entries: int = 100_000,
        max_bytes: int = 256 * 1024 * 1024,
        max_age_s: float | None = None,
        keep_length: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Absolute, as a child opens it again, wherever the process has moved to.
        self.path = as_path(path, "cache").absolute() if path is not None else None
        self._max_entries = check_count(max_entries, "max_entries")
        self._max_bytes = check_count(max_bytes, "max_bytes")
        self._max_age_s = (
            math.inf if max_age_s is None else check_seconds(max_age_s, "max_age_s", positive=True)
        )
        self._whole_ends = ("stop", "tool_calls", "length") if keep_length else ("stop", "tool_calls")
        check_function(clock, "clock")
        self._clock = clock
        self._hits = self._shared = self._misses = self._stores = 0
        self._open()
        renew_after_fork(self)

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, Future[Reply | None]] = {}
        try:
            if self.path is not None:  # made for this user alone: SQLite follows links, and lets all read
                check_links(self.path)
                with suppress(FileExistsError, FileNotFoundError):  # where there's no folder, SQLite says so
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))
            self._db = db = sqlite3.connect(
                self.path or ":memory:", isolation_level=None, check_same_thread=False, timeout=OPEN_S
            )
            with ExitStack() as failed:
                failed.callback(db.close)
                _prepare(db)
                self._recount()
                failed.pop_all()
        except (OSError, sqlite3.Error) as error:
            why = getattr(error, "strerror", error)
            raise ConfigurationError(
                f"The response cache {str(self.path)!r} can't be used: {why}. Name a file in a folder that "
                "exists and that no other program writes, or leave the path out to cache in memory."
            ) from None
        self._closing = weakref.finalize(self, db.close)

    def after_fork(self) -> None:
        """SQLite's connections may be neither used nor closed in a child; what is in memory stays behind."""
        self._closing.detach()
        keep_unused(self._db)
        try:
            self._open()
        except ConfigurationError as error:  # raised here, it would leave others without their renewal
            _log.warning("%s This process keeps its answers in memory.", error)
            self.path = None
            self._open()

    def stats(self) -> CacheStats:
        """Return the counts so far."""
        with self._lock:
            return CacheStats(self._hits, self._shared, self._misses, self._entries, self._bytes)

    def clear(self) -> None:
        """Forget every answer."""
        with self._lock, self._tolerated("its answers stay"):
            self._db.execute("DELETE FROM answer")
            self._recount()

    def close(self) -> None:
        """Close the database. Requests that come later go to the service."""
        with self._lock:
            self._db.close()

    def __repr__(self) -> str:
        return f"<ResponseCache {self.path or 'in memory'}: {self._entries} answers>"

    # --- for the clients ------------------------------------------------------------------------------

    def key(self, call: Call) -> bytes | None:
        """Return what the answer is kept under (model id and every parameter), None for one not to keep."""
        if not call.cacheable or call.body is None:
            return None
        fields = msgspec.json.decode(call.body)
        if fields.get("temperature") != 0 and fields.get("seed") is None:
            return None
        return hashlib.sha256(_canonical.encode([call.path, fields])).digest()

    async def answer(
        self, key: bytes, request_id: str, deadline: Deadline, ask: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """Return the kept answer, or that of an equal request under way, or else have it asked for."""
        while True:
            with self._lock:
                if (body := self._load(key)) is not None:
                    self._hits += 1
                    return Reply(200, {}, body, request_id, attempts=0, cached=True)
                flight = self._flights.get(key)
                if flight is None:
                    self._misses += 1
                    ours = self._flights[key] = Future()
                    ours.set_running_or_notify_cancel()  # a cancelled waiter can't cancel it now
            if flight is None:
                return await self._fetch(key, ask)
            try:
                shared = await asyncio.wait_for(asyncio.wrap_future(flight), deadline.remaining())
            except TimeoutError:
                raise deadline.error() from None
            if shared is not None:
                with self._lock:
                    self._hits += 1
                    self._shared += 1
                return msgspec.structs.replace(shared, request_id=request_id, attempts=0, cached=True)

    async def _fetch(self, key: bytes, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask, keep the answer, and hand it to those who wait; if it fails, one of them asks in its turn."""
        reply = None
        try:
            reply = await ask()
            return reply
        finally:
            with self._lock:
                if reply is not None and self._is_whole(reply):
                    self._store(key, reply.body)
                flight = self._flights.pop(key)
            flight.set_result(reply)

    def _is_whole(self, reply: Reply) -> bool:
        try:
            return parse_completion(reply, 0.0).finish_reason in self._whole_ends
        except FoundryError:
            return False

    # --- the database, under the lock -----------------------------------------------------------------

    def _load(self, key: bytes) -> bytes | None:
        body: bytes | None = None
        with self._tolerated("the service is asked"):
            now = self._clock()
            found = self._db.execute(YOUNG, (key, now - self._max_age_s)).fetchone()
            if found is not None:
                body, used_at = found
                if not 0 <= now - used_at < USED_WITHIN_S:
                    with suppress(sqlite3.Error):  # a hit that isn't noted is a hit
                        self._db.execute("UPDATE answer SET used_at = ? WHERE key = ?", (now, key))
        return body

    def _store(self, key: bytes, body: bytes) -> None:
        if len(body) > self._max_bytes:
            return
        with self._tolerated("an answer isn't kept"):
            now = self._clock()
            self._delete("key = ?", key)  # an answer that was too old
            self._db.execute(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?)", (key, body, len(body), now, now)
            )
            self._entries += 1
            self._bytes += len(body)
            self._stores += 1
            if self._stores % RECOUNT_EVERY == 0:  # other processes may use the same file
                self._recount()
            while self._entries > self._max_entries or self._bytes > self._max_bytes:
                if not self._delete(OLDEST_OTHER, key):
                    break

    def _delete(self, where: str, key: bytes) -> int:
        rows = self._db.execute(f"DELETE FROM answer WHERE {where} RETURNING size", (key,)).fetchall()
        self._entries -= len(rows)
        self._bytes -= sum(row[0] for row in rows)
        return len(rows)

    def _recount(self) -> None:
        counted = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM answer")
        self._entries, self._bytes = counted.fetchone()

    @contextmanager
    def _tolerated(self, so: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            _log.warning("the response cache failed (%s): %s", error, so)


def _prepare(db: sqlite3.Connection) -> None:
    # In this order: a process that is making the cache just now puts its name before its tables.
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    if owner != APPLICATION_ID and tables:
        raise sqlite3.DatabaseError("it is another program's database")
    with suppress(sqlite3.OperationalError):  # another process that makes the file sees to it
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(
        "CREATE TABLE IF NOT EXISTS answer "
        "(key BLOB PRIMARY KEY, body BLOB, size INTEGER, stored_at REAL, used_at REAL) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX IF NOT EXISTS answer_by_use ON answer (used_at)")
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
