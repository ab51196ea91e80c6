"""The journal: an SQLite file that grows by rows, written by a thread of its own and never rewritten.

    any thread: append ──► rows ──► writer thread: BEGIN, insert, COMMIT (every n rows, or so many seconds)
    any thread: write  ─────────────────────────── the same, at once, in the caller's thread
    any thread: read   ◄── a connection of its own: in WAL mode a reader never waits for a writer

SQLite's write-ahead log survives a kill at any moment: what was committed is there, what was not is not, and nothing
has to be repaired. Several processes may write to one journal; they wait for each other's commits.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amorsize_executor.errors import StorageError
from amorsize_executor.events import logger
from amorsize_executor.storage import place

Statement = tuple[str, Sequence[Any]]

BUSY_S = 30.0
"""How long a commit waits for other processes."""

FOREIGN = "is a database of something else"

_SMALLEST_BYTES = 512  # a page
_UNFIT = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError, UnicodeError)
"""Errors of a row that SQLite can never hold."""
_REFUSALS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; where it quotes a damaged name, its message cannot be made."""
_abandoned: list[sqlite3.Connection] = []  # of the parent, after a fork: closing them here would hurt it


@dataclass(frozen=True)
class JournalKind:
    """What a journal holds.

    Attributes:
        application_id: SQLite's mark in the file's header, by which a foreign database is known.
        version: Of the schema, >= 1; files of a later one are refused.
        schema: Statements that make the tables.
    """

    application_id: int
    version: int
    schema: tuple[str, ...]


class Journal:
    """An append-only store.

    Args:
        path: The file; made when it is opened, with its directory.
        kind: What it holds.
        commit_every: Rows after which the writer thread commits at once, >= 1.
        commit_after_s: Seconds after which it commits what there is, > 0.
    """

    def __init__(self, path: Path, kind: JournalKind, *, commit_every: int = 100, commit_after_s: float = 1.0) -> None:
        self.path = path
        self.kind = kind
        self.mode = ""  # SQLite's journal mode, once open
        self._commit_every = commit_every
        self._commit_after_s = commit_after_s
        self._forget()

    def _forget(self) -> None:
        """Start with nothing: no connection, no thread, no rows, and locks that nobody holds."""
        self.failure: StorageError | None = None  # why the writer thread's last commit failed; None once one works
        self._pid = os.getpid()
        self._write_lock = threading.Lock()  # guards _writer
        self._read_lock = threading.Lock()  # guards _reader
        self._changed = threading.Condition()  # guards what follows
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._rows: list[Statement] = []
        self._appended = 0
        self._written = 0
        self._is_hurried = False
        self._is_closing = False
        self._thread: threading.Thread | None = None

    # --- life ---

    def open(self) -> None:
        """Make the file if it is missing, check it, and connect. Does nothing if that was done.

        Raises:
            StorageError: The directory or file is not ours alone, is read-only, damaged, or holds something else.
        """
        if self._pid != os.getpid():
            _abandoned.extend(held for held in (self._writer, self._reader) if held is not None)
            self._forget()
        with self._write_lock:
            if self._writer is not None:
                return
            place.make_directory(self.path.parent)
            place.check_database(self.path)
            place.create_private(self.path)
            if 0 < self.path.stat().st_size < _SMALLEST_BYTES:  # SQLite would take it for an empty one
                raise StorageError(self.path, "is damaged, or no database; move it away to start anew")
            connection = self._connect()
            try:
                with place.locked(self.path.parent):  # SQLite gives up at once where two change the mode of a new file
                    self._prepare(connection)
            except BaseException:  # Ctrl-C, too: nobody else knows of the connection
                connection.close()
                raise
            self._writer = connection

    def exists(self) -> bool:
        """Tell whether there is such a file; makes none."""
        return self.path.exists()

    def is_foreign(self) -> bool:
        """Tell whether the file is a sound database, but of something else. Makes and changes nothing."""
        try:
            place.check_database(self.path)
            with contextlib.closing(self._connect(is_sealed=True)) as connection:
                tables, application_id = _marks_of(connection)
        except (*_REFUSALS, StorageError):
            return False
        return bool(tables or application_id) and application_id != self.kind.application_id

    def close(self) -> None:
        """Commit what was appended and let go of the file. What cannot be written is told to the log."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._read_lock, self._write_lock:
            for connection in (self._reader, self._writer):  # the last one to close folds the log into the file
                if connection is not None:
                    connection.close()
            self._forget()

    def _open_to_read(self) -> None:
        """Connect; where nothing can be written, on a read-only mount say, to the file as it lies there."""
        try:
            self.open()
        except StorageError:
            if not place.is_sealed(self.path):
                raise
            place.check_directory(self.path.parent)
            place.check_database(self.path)
            connection = self._connect(is_sealed=True)
            try:
                self._is_new(connection)
            except _REFUSALS as error:
                connection.close()
                raise self._refusal(error) from error
            except StorageError:
                connection.close()
                raise
            with self._read_lock:
                self._reader = connection

    def _connect(self, *, is_sealed: bool = False) -> sqlite3.Connection:
        where = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1" if is_sealed else self.path  # with no side file
        try:
            # Our locks see to it that a connection serves one thread at a time.
            connection = sqlite3.connect(
                where, uri=is_sealed, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        connection.text_factory = _text
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check what the file holds, or make it what it is to be. A foreign one is left as it is."""
        try:
            if self._is_new(connection):
                self.mode = self._choose_mode(connection)
                connection.execute("BEGIN IMMEDIATE")
                if self._is_new(connection):  # nobody was faster
                    for statement in self.kind.schema:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {self.kind.application_id}")
                    connection.execute(f"PRAGMA user_version = {self.kind.version}")
                connection.execute("COMMIT")
            else:
                self.mode = self._choose_mode(connection)
        except _REFUSALS as error:
            raise self._refusal(error) from error

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        tables, application_id = _marks_of(connection)
        if not application_id and not tables:
            return True
        if application_id != self.kind.application_id:
            raise StorageError(self.path, f"{FOREIGN}; give it another place")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != self.kind.version:
            problem = f"was written by another version of this package (format {version}, not {self.kind.version})"
            raise StorageError(self.path, problem)
        return False

    def _choose_mode(self, connection: sqlite3.Connection) -> str:
        """Write ahead where that works; elsewhere SQLite's older way, which waits for the disk at each commit."""
        wanted = "DELETE" if place.is_on_network(self.path.parent) else "WAL"
        (mode,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        return str(mode)

    # --- rows ---

    @property
    def written(self) -> int:
        """How many rows were appended and are committed, since it was opened."""
        return self._written

    def append(self, statement: str, row: Sequence[Any]) -> int:
        """Have a row written soon. Never blocks; rows are written in the order of the calls.

        Returns:
            The row's number: it is committed when ``written`` has come so far.

        Raises:
            StorageError: The journal is closed.
            RuntimeError: There is no room for the writer thread.
        """
        return self.append_together([(statement, row)])

    def append_together(self, statements: Iterable[Statement]) -> int:
        """Have rows written soon, in one transaction; the number is the last one's. Otherwise as ``append``."""
        with self._changed:
            if self._is_closing:
                raise StorageError(self.path, "is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._write_on, name="amorsize-journal")
                thread.start()
                self._thread = thread
            waiting = len(self._rows)
            self._rows.extend(statements)
            self._appended += len(self._rows) - waiting
            if not waiting or waiting < self._commit_every <= len(self._rows):
                self._changed.notify_all()
            return self._appended

    def flush(self) -> None:
        """Wait until all that was appended before is committed.

        Raises:
            StorageError: It cannot be. It is kept, and tried again.
        """
        changed = self._changed
        with changed:
            goal, tried = self._appended, self.failure
            while self._changed is changed and self._written < goal:  # or it was closed, and all is done
                self._is_hurried = True
                changed.notify_all()
                changed.wait()
                if self._written < goal and self.failure is not None and self.failure is not tried:
                    raise self.failure

    def write(self, statements: Iterable[Statement]) -> None:
        """Do all statements in one transaction, in this thread; they are committed on return.

        Raises:
            StorageError: The disk is full, the file damaged, …; then none of them was done.
        """
        if self._writer is None or self._pid != os.getpid():
            self.open()
        with self._write_lock:
            writer = self._writer
            if writer is None:
                raise StorageError(self.path, "is closed")
            try:
                writer.execute("BEGIN IMMEDIATE")
                for statement, row in statements:
                    writer.execute(statement, row)
                writer.execute("COMMIT")
            except (sqlite3.Error, *_UNFIT) as error:
                raise self._refusal(error) from error
            finally:
                _roll_back(writer)

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query: of what is committed.

        Raises:
            StorageError: The file is damaged, or cannot be read.
        """
        if (self._writer is None and self._reader is None) or self._pid != os.getpid():
            self._open_to_read()
        with self._read_lock:
            if self._reader is None:
                self._reader = self._connect()
            try:
                return self._reader.execute(query, parameters).fetchall()
            except _REFUSALS as error:
                raise self._refusal(error) from error

    # --- the writer thread ---

    def _write_on(self) -> None:
        while True:
            rows, is_last = self._wait_for_rows()
            if rows and not self._try_to_commit(rows, is_last=is_last):
                continue
            if is_last:
                return

    def _wait_for_rows(self) -> tuple[list[Statement], bool]:
        with self._changed:
            while not self._rows and not self._is_closing:
                self._changed.wait()
            end_s = time.monotonic() + self._commit_after_s
            while len(self._rows) < self._commit_every and not (self._is_hurried or self._is_closing):
                if not self._changed.wait(max(0.0, end_s - time.monotonic())):
                    break
            rows, self._rows = self._rows, []
            self._is_hurried = False
            return rows, self._is_closing

    def _try_to_commit(self, rows: list[Statement], *, is_last: bool) -> bool:
        """Commit, and tell who waits; False if it is to be tried again with rows that came meanwhile."""
        try:
            self._commit(rows)
            failure = None
        except Exception as error:  # noqa: BLE001 - whatever it is, rows are kept, callers are told, and the thread lives
            failure = error if isinstance(error, StorageError) else StorageError(self.path, repr(error))
        with self._changed:
            if failure is not None and self.failure is None:
                logger.error("%s; %d rows wait to be written", failure, len(rows))
            self.failure = failure
            if failure is None:
                self._written += len(rows)
            elif is_last:
                logger.error("%s; %d rows are lost", failure, len(rows))
            else:
                self._rows[:0] = rows
            self._changed.notify_all()
            if failure is None or is_last:
                return True
            self._changed.wait(self._commit_after_s)
            return False

    def _commit(self, rows: list[Statement]) -> None:
        if self._writer is None:  # closed, and appended to since
            self.open()
        with self._write_lock:
            writer = self._writer
            if writer is None:
                raise StorageError(self.path, "is closed")
            try:
                writer.execute("BEGIN IMMEDIATE")
                for statement, row in rows:
                    try:
                        writer.execute(statement, row)
                    except _UNFIT as error:  # such a row would never fit; the others shall not suffer
                        logger.error("%s: a row cannot be stored: %s", self.path, error)
                writer.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._refusal(error) from error
            finally:
                _roll_back(writer)

    def _refusal(self, error: Exception) -> StorageError:
        """Say in words of ours what SQLite says."""
        text = str(error)
        for said, problem in _MEANINGS:
            if said in text:
                return StorageError(self.path, f"{problem} ({text})")
        return StorageError(self.path, text)


_MEANINGS = (
    ("disk is full", "the disk is full"),
    ("disk I/O error", "the disk refuses it, or is full"),
    ("readonly", "cannot be written"),
    ("unable to open", "cannot be opened"),
    ("locked", f"another process has held it for more than {BUSY_S:g} s"),
    ("not a database", "is damaged, or no database; move it away to start anew"),
    ("malformed", "is damaged; move it away to start anew"),
    ("can't decode", "is damaged; move it away to start anew"),
)


def _text(data: bytes) -> str:
    """Read a text; where it is damaged, the row's other columns can still be had."""
    return data.decode("utf-8", "replace")


def _marks_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return how many tables there are, and the application's mark."""
    # In this order: who makes the file at this moment sets both in one transaction.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return tables, application_id


def _roll_back(connection: sqlite3.Connection) -> None:
    """Leave no transaction open behind an error."""
    if connection.in_transaction:
        connection.rollback()
