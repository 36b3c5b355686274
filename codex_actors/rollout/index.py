"""The index of a home: a cache of what its rollouts say, in SQLite. The files are the truth; it may go at any moment.

Every answer is that of `listing`, from less reading: folders are looked into when they have changed, files when they have,
and the rows of an answer are compared with their files before it is given.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codex_actors.errors import RolloutError
from codex_actors.rollout.index_rows import GET, MARK, PUT, SUMMARY, row_of, select, thread_in
from codex_actors.rollout.listing import (
    ARCHIVED,
    SESSIONS,
    ThreadPage,
    ThreadQuery,
    chosen,
    cursor_of,
    entries,
    find_thread,
    holds,
    list_threads,
)
from codex_actors.rollout.names import names_path, read_names
from codex_actors.rollout.summary import KeptThread, Stamp, name_parts

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

_LOGGER = logging.getLogger("codex_actors")

SWEEP_S = 5.0
"""How often all files are looked at."""

BUSY_S = 2.0
"""How long one process waits for another that writes the index, before it answers from the files alone."""

_SETTLED_S = 2.0
"""A folder that changed so short ago may change again within the same tick of the disk's clock."""

_UNSETTLED = -1
"""Stands for the time of such a folder's change: it is looked into again."""

_ROUNDS = 3
"""How often a page is asked for anew when files have changed behind its rows."""


def _first_tables(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE files (path BLOB PRIMARY KEY, folder BLOB NOT NULL, thread_id TEXT NOT NULL, began TEXT NOT NULL,"
        " archived INTEGER NOT NULL, mtime_ns INTEGER, size INTEGER, inode INTEGER, is_thread INTEGER NOT NULL,"
        f" {', '.join(SUMMARY)}, is_current INTEGER NOT NULL DEFAULT 0)"
    )
    db.execute("CREATE INDEX files_by_folder ON files (folder)")
    db.execute("CREATE INDEX files_by_thread ON files (thread_id)")
    for column in ("began", "mtime_ns"):
        db.execute(f"CREATE INDEX files_by_{column} ON files (archived, {column}, thread_id) WHERE is_current")
    db.execute("CREATE TABLE folders (path BLOB PRIMARY KEY, mtime_ns INTEGER NOT NULL)")
    db.execute("CREATE TABLE names (thread_id TEXT PRIMARY KEY, name TEXT NOT NULL)")
    db.execute("CREATE TABLE seen (what TEXT PRIMARY KEY, mtime_ns INTEGER, size INTEGER, inode INTEGER)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first_tables,)
"""Each makes the tables of one version from those of the version before."""


class Index:
    """The threads of one home.

    Runs in: any OS thread, but one at a time.

    Args:
        writes: Whether the index may be kept in the home, as `codex_actors/index.sqlite`. Where it may not, or cannot, it
            is kept in memory.
        sweep_s: How old what an answer knows of the growth of files may be at most. New files are always in it.
    """

    def __init__(self, codex_home: Path, *, writes: bool, sweep_s: float = SWEEP_S) -> None:
        self._home = codex_home
        self._root = os.fsencode(codex_home)
        self._sweep_s = sweep_s
        self._path = codex_home / "codex_actors" / "index.sqlite" if writes else None
        self._db: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._swept_s = float("-inf")

    def list_threads(self, query: ThreadQuery, touched: Iterable[Path] = ()) -> ThreadPage:
        """As `listing.list_threads`; `touched` are files that are known to have grown.

        Raises:
            RolloutError: a folder of the home cannot be read.
        """
        changed = tuple(touched)
        return self._answer(lambda db: self._page(db, query, changed), lambda: list_threads(self._home, query))

    def find_thread(self, which: str) -> KeptThread:
        """As `listing.find_thread`.

        Raises:
            ThreadNotFound: there is none.
            InvalidRequest: there are several; it names them.
            RolloutError: a folder of the home cannot be read.
        """
        return self._answer(lambda db: self._find(db, which), lambda: find_thread(self._home, which))

    def close(self) -> None:
        """Close its file. The next call opens it again."""
        if self._db is not None:
            with suppress(_sqlite().Error):
                self._db.close()
            self._db = None
            self._swept_s = float("-inf")

    # --- the database ----------------------------------------------------------------------------------------------

    def _answer(self, ask: Callable[[sqlite3.Connection], T], ask_files: Callable[[], T]) -> T:
        """What the index says; where it is damaged it is made anew, and where it is of no use the files are asked."""
        sqlite = _sqlite()
        for _ in range(2):
            try:
                return ask(self._open())
            except sqlite.Error as error:
                self.close()
                if _is_busy(error):
                    break
                _LOGGER.warning("the index of %s is made anew (%s)", self._home, error)
                self._discard()
        else:
            self._path = None
        return ask_files()

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and (self._path is None or _inode(self._path) == self._inode):
            return self._db
        self.close()
        if self._path is not None and not _make_file(self._path):
            self._path = None
        db = self._db = _connected(self._path)
        self._inode = None if self._path is None else _inode(self._path)
        if not _migrate(db):  # a newer version's: it is left as it is
            self._path = None
            return self._open()
        return db

    def _discard(self) -> None:
        if self._path is None:
            return
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{self._path}{end}")

    # --- answers ---------------------------------------------------------------------------------------------------

    def _page(self, db: sqlite3.Connection, query: ThreadQuery, touched: tuple[Path, ...]) -> ThreadPage:
        self._refresh(db, touched)
        sql, values = select(query)
        for _ in range(_ROUNDS):
            rows = db.execute(sql, values).fetchall()
            changed = self._changed(rows)
            if not changed:
                break
            self._store(db, [], changed, [])
        page = [thread_in(self._home, row) for row in rows[: query.limit]]
        threads = tuple(thread for _, thread in page)
        is_last = len(rows) <= query.limit
        return ThreadPage(threads, None if is_last else cursor_of(page[-1][0].key(query.sort_by)))

    def _find(self, db: sqlite3.Connection, which: str) -> KeptThread:
        self._refresh(db, ())
        text = which.strip() if isinstance(which, str) else ""
        begin = text.lower()
        sql = f"{GET} AND (f.thread_id >= ? AND f.thread_id < ? OR name = ?) ORDER BY archived DESC"
        rows = db.execute(sql, (begin, begin + "\x7f", text)).fetchall()
        if self._changed(rows):
            return find_thread(self._home, which)
        found = [thread_in(self._home, row) for row in rows]
        names = {thread.id: thread.name for _, thread in found if thread.name is not None}
        file = chosen(which, [file for file, _ in found], dict(names))
        return next(thread for other, thread in found if other is file)

    def _changed(self, rows: list[tuple[Any, ...]]) -> list[bytes]:
        """The paths of those rows whose files are no longer what they were."""
        changed: list[bytes] = []
        for row in rows:
            try:
                stat = os.stat(os.path.join(self._root, row[0]))
            except OSError:
                changed.append(row[0])
                continue
            if (stat.st_mtime_ns, stat.st_size, stat.st_ino) != row[4:7]:
                changed.append(row[0])
        return changed

    # --- keeping up ------------------------------------------------------------------------------------------------

    def _refresh(self, db: sqlite3.Connection, touched: tuple[Path, ...]) -> None:
        """Learn what has changed in the home since the last answer."""
        self._refresh_names(db)
        begun_s = time.monotonic()
        sweeps = begun_s - self._swept_s >= self._sweep_s
        known: dict[bytes, int] = dict(db.execute("SELECT path, mtime_ns FROM folders"))
        waiting = [os.fsencode(root) for root in (SESSIONS, ARCHIVED)]
        waiting += [path for path in known if path not in waiting]
        looked: list[tuple[bytes, int | None]] = []
        changed: list[bytes] = [self._relative(path) for path in touched]
        while waiting:
            folder = waiting.pop()
            mtime_ns = _settled_mtime_ns(os.path.join(self._root, folder))
            if mtime_ns not in (None, _UNSETTLED) and known.get(folder) == mtime_ns and not sweeps:
                continue
            looked.append((folder, mtime_ns))
            below, differing = self._look_into(db, folder)
            waiting += [path for path in below if path not in known]
            changed += differing
        gone = [folder for folder, mtime_ns in looked if mtime_ns is None and folder in known]
        seen = [each for each in looked if each[1] is not None and known.get(each[0]) != each[1]]
        if changed or gone or seen:
            self._store(db, seen, changed, gone)
        if sweeps:
            self._swept_s = begun_s

    def _look_into(self, db: sqlite3.Connection, folder: bytes) -> tuple[list[bytes], list[bytes]]:
        """The folders in a folder, and the files in it that the index has otherwise, or not, or for nothing."""
        folders, files = entries(os.path.join(self._home, os.fsdecode(folder)))
        sql = "SELECT path, mtime_ns, size, inode FROM files WHERE folder = ?"
        rows = {path: tuple(stamp) for path, *stamp in db.execute(sql, (folder,))}
        differing: list[bytes] = []
        for name, _, stamp in files:
            path = os.path.join(folder, os.fsencode(name))
            if rows.pop(path, None) != stamp.values:
                differing.append(path)
        return [os.path.join(folder, os.fsencode(name)) for name in folders], [*differing, *rows]

    def _store(
        self,
        db: sqlite3.Connection,
        seen: list[tuple[bytes, int | None]],
        changed: list[bytes],
        gone: list[bytes],
    ) -> None:
        """Read the changed files, and keep what they say, in one transaction."""
        rows = [(path, row_of(self._home, path)) for path in dict.fromkeys(changed)]
        ids = {parts[1] for path in changed if (parts := name_parts(os.fsdecode(os.path.basename(path)))) is not None}
        with _transaction(db):
            for path, row in rows:
                if row is None:
                    db.execute("DELETE FROM files WHERE path = ?", (path,))
                else:
                    db.execute(PUT, row)
            db.executemany("DELETE FROM folders WHERE path = ?", [(path,) for path in gone])
            db.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?)", seen)
            db.executemany(MARK, [(thread_id,) for thread_id in ids])

    def _refresh_names(self, db: sqlite3.Connection) -> None:
        try:
            stamp = Stamp.of(os.stat(names_path(self._home))).values
        except OSError:
            stamp = (0, 0, 0)
        row = db.execute("SELECT mtime_ns, size, inode FROM seen WHERE what = 'names'").fetchone()
        if row == stamp:
            return
        names = read_names(self._home)
        with _transaction(db):
            db.execute("DELETE FROM names")
            db.executemany("INSERT INTO names VALUES (?, ?)", names.items())
            db.execute("INSERT OR REPLACE INTO seen VALUES ('names', ?, ?, ?)", stamp)

    def _relative(self, path: Path) -> bytes:
        try:
            return os.fsencode(path.relative_to(self._home))
        except ValueError:  # a rollout that stands elsewhere
            return b""


def _sqlite() -> Any:
    """The module. Not loaded with the package: most processes list nothing."""
    import sqlite3

    return sqlite3


def _connected(path: Path | None) -> sqlite3.Connection:
    sqlite = _sqlite()
    # Autocommit: transactions are begun by hand. Serialized by the caller, so not bound to one OS thread.
    db: sqlite3.Connection = sqlite.connect(
        ":memory:" if path is None else path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.create_function("holds", 3, holds, deterministic=True)
        if path is not None:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a lost tail of a cache is no loss
            with closing(db.execute("PRAGMA quick_check(1)")) as found:
                if found.fetchone() != ("ok",):
                    raise sqlite.DatabaseError("its pages are damaged")
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> bool:
    """Bring the tables up to date; False where a newer version has made them."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        return False
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        with _transaction(db):
            (now,) = db.execute("PRAGMA user_version").fetchone()
            if now < number:  # another process may have been faster
                migration(db)
                db.execute(f"PRAGMA user_version = {number}")
    return True


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    sqlite = _sqlite()
    return code is not None and code & 0xFF in (sqlite.SQLITE_BUSY, sqlite.SQLITE_LOCKED)


def _make_file(path: Path) -> bool:
    """Whether the index can be written there. It tells what threads say: it is its owner's alone, as they are."""
    try:
        if not path.parent.parent.is_dir():
            return False
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _settled_mtime_ns(folder: bytes) -> int | None:
    """When a folder changed; `_UNSETTLED` where that was just now, None where it is none.

    Raises:
        RolloutError: it cannot be looked at.
    """
    try:
        mtime_ns = os.stat(folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RolloutError(os.fsdecode(folder), f"cannot look for rollouts ({error.strerror})") from error
    return mtime_ns if time.time_ns() - mtime_ns > _SETTLED_S * 1e9 else _UNSETTLED
