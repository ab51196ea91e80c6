"""The queue of dead letters: in memory, and in a store that outlives the program and that processes share.

The store outlives the program, and no new queue erases what an earlier one left. ``size()`` and ``get_entries()`` speak
of what this object was given; ``load()`` brings in what is stored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, StorageError
from amorsize_executor.parameters import check_count
from amorsize_executor.storage import encoding, place
from amorsize_executor.storage.dead_letter import STYLES, DLQEntry, DLQPolicy
from amorsize_executor.storage.journal import Journal, JournalKind, Statement

if TYPE_CHECKING:
    from typing_extensions import Self

FILE_NAME = "dlq.sqlite3"

KIND = JournalKind(
    0x616D646C,  # "amdl"
    1,
    (
        """CREATE TABLE entries (
            number INTEGER PRIMARY KEY AUTOINCREMENT, entry_id TEXT UNIQUE, error_type TEXT, error_message TEXT,
            timestamp REAL, traceback TEXT, retry_count INTEGER, metadata TEXT, style TEXT, form TEXT, item BLOB,
            shown TEXT
        )""",
        "CREATE TABLE amount (entries INTEGER)",
        "INSERT INTO amount VALUES (0)",
        "CREATE TRIGGER more AFTER INSERT ON entries BEGIN UPDATE amount SET entries = entries + 1; END",
        "CREATE TRIGGER less AFTER DELETE ON entries BEGIN UPDATE amount SET entries = entries - 1; END",
    ),
)
_FIELDS = "entry_id, error_type, error_message, timestamp, traceback, retry_count, metadata, style, form, item, shown"
_BLANK = "", "", "", 0.0, None, 0, "{}", "", "", b"", ""
_INSERT = f"INSERT OR IGNORE INTO entries ({_FIELDS}) VALUES ({', '.join('?' * 11)})"  # noqa: S608
_DROP_OLDEST = """DELETE FROM entries WHERE number IN (
    SELECT number FROM entries ORDER BY number LIMIT max(0, (SELECT entries FROM amount) - ?))"""
_UPDATE = """UPDATE entries SET error_type = ?, error_message = ?, timestamp = ?, traceback = ?, retry_count = ?,
    metadata = ? WHERE entry_id = ?"""
_SELECT = f"SELECT {_FIELDS} FROM entries ORDER BY number"  # noqa: S608
_CHOOSE = "SELECT entry_id FROM entries WHERE (? IS NULL OR timestamp < ?) AND (? IS NULL OR error_type = ?)"
_DELETE = "DELETE FROM entries WHERE entry_id = ?"


class DeadLetterQueue:
    """Failed items, in memory and in a store that outlives the program. Threads and processes may share one.

    Args:
        policy: Where and how; None for the default policy.

    Raises:
        OSError: The directory cannot be made, or others may write into it (only with ``auto_persist``).
    """

    def __init__(self, policy: DLQPolicy | None = None) -> None:
        if policy is not None and not isinstance(policy, DLQPolicy):
            raise InvalidParameterTypeError("policy", policy, "must be a DLQPolicy or None")
        self.policy = policy or DLQPolicy()
        directory = Path(self.policy.directory)
        self.journal = Journal(directory / FILE_NAME, KIND)
        weakref.finalize(self, self.journal.close)  # many a queue is never closed
        self._lock = threading.Lock()  # guards what follows
        self._entries: dict[str, DLQEntry] = {}  # the oldest first
        self._users = 0
        if self.policy.auto_persist:
            place.make_directory(directory)

    def __repr__(self) -> str:
        return f"<DeadLetterQueue of {self.size()} entries in {self.policy.directory}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.policy,)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Open the store now instead of at the first entry. Each ``open`` wants a ``close``."""
        with self._lock:
            self._users += 1
        if self.policy.auto_persist:
            self.journal.open()

    def close(self) -> None:
        """Commit everything, and let go of the store if nobody else has opened it. The queue can be used again.

        What cannot be written is told to the log.
        """
        with self._lock:
            self._users = max(0, self._users - 1)
            is_last = not self._users
        if is_last:
            self.journal.close()
        else:
            with contextlib.suppress(StorageError):  # the journal has told the log, and tries on
                self.journal.flush()

    # --- entries ---

    def add(
        self, item: Any, error: BaseException, retry_count: int = 0, metadata: dict[str, Any] | None = None
    ) -> None:
        """Keep a failed item; with ``auto_persist`` it is in the store on return.

        Args:
            item: What the function was called with.
            error: How it failed; its own traceback is kept.
            retry_count: How often it was tried again, >= 0.
            metadata: What else is known.

        Raises:
            OSError: It cannot be stored; it is kept in memory.
        """
        if not isinstance(error, BaseException):
            raise InvalidParameterTypeError("error", error, "must be an exception")
        check_count("retry_count", retry_count, least=0, optional=False)
        known = {"retry_count": retry_count, "metadata": dict(metadata or {})}
        entry = DLQEntry.of(item, error, include_traceback=self.policy.include_traceback, **known)
        self._keep([entry])
        if self.policy.auto_persist:
            self.journal.write(self._statements([entry]))

    def add_soon(self, entry: DLQEntry) -> None:
        """Keep an entry, instead of one with its id. It is stored within a second. Never blocks; the queue is open."""
        with self._lock:
            self._entries.pop(entry.entry_id, None)
        self._keep([entry])
        if self.policy.auto_persist:
            self.journal.append_together([(_DELETE, (entry.entry_id,)), *self._statements([entry])])

    def remove_soon(self, entry_id: str) -> None:
        """Remove an entry, if there is one, from the store within a second. Never blocks; the queue is open."""
        with self._lock:
            self._entries.pop(entry_id, None)
        if self.policy.auto_persist:
            self.journal.append(_DELETE, (entry_id,))

    def get_entries(self) -> list[DLQEntry]:
        """Return this object's entries in a new list, the oldest first."""
        with self._lock:
            return list(self._entries.values())

    def size(self) -> int:
        """Return how many entries this object has."""
        return len(self._entries)

    def clear(self) -> int:
        """Remove this object's entries, from the store too; return how many there were."""
        with self._lock:
            removed, self._entries = list(self._entries), {}
        if self._has_store():
            self.journal.write((_DELETE, (entry_id,)) for entry_id in removed)
        return len(removed)

    def holds(self, entry_id: str) -> bool:
        """Tell whether this object has an entry of an id."""
        return entry_id in self._entries

    def get_summary(self) -> dict[str, Any]:
        """Return counts over this object's entries.

        Returns:
            ``total_entries``, ``error_types`` (name to count), ``avg_retry_count``, ``oldest_timestamp`` and
            ``newest_timestamp`` (seconds since 1970; None if there are no entries).
        """
        entries = self.get_entries()
        times = [entry.timestamp for entry in entries]
        return {
            "total_entries": len(entries),
            "error_types": dict(Counter(entry.error_type for entry in entries)),
            "avg_retry_count": sum(entry.retry_count for entry in entries) / len(entries) if entries else 0.0,
            "oldest_timestamp": min(times, default=None),
            "newest_timestamp": max(times, default=None),
        }

    def remove(self, entry: DLQEntry) -> None:
        """Remove an entry that is dealt with, from the store too."""
        with self._lock:
            self._entries.pop(entry.entry_id, None)
        if self._has_store():
            self.journal.write([(_DELETE, (entry.entry_id,))])

    def update(self, entry: DLQEntry) -> None:
        """Take over how an entry failed again; its arguments stay what they are."""
        with self._lock:
            if entry.entry_id in self._entries:
                self._entries[entry.entry_id] = entry
        if self._has_store():
            metadata = encoding.to_json(entry.metadata, pickles=True)
            row = *_error_of(entry), entry.retry_count, metadata, entry.entry_id
            self.journal.write([(_UPDATE, row)])

    def _keep(self, entries: Iterable[DLQEntry]) -> None:
        with self._lock:
            for entry in entries:
                self._entries[entry.entry_id] = entry
                if 0 < self.policy.max_entries < len(self._entries):
                    del self._entries[next(iter(self._entries))]

    # --- the store and files ---

    def save(self, filepath: str | os.PathLike[str] | None = None) -> str:
        """Write this object's entries; return the path.

        Args:
            filepath: A file to be replaced: a JSON array (``.json``), JSON lines (``.jsonl``) or a pickle (``.pkl``,
                ``.pickle``), by its suffix, else by the policy's format. None for the store: entries that are not
                there yet are added.

        Raises:
            ValueError: The path is the store's own.
            OSError: It cannot be written; what was there is untouched.
        """
        entries = self.get_entries()
        if filepath is None:
            self.journal.write(self._statements(entries))
            return str(self.journal.path)
        path = Path(filepath)
        if path.resolve() in (own.resolve() for own in place.files_of_database(self.journal.path)):
            raise InvalidParameterError("filepath", str(path), "is the store itself; give it another name")
        place.write_atomically(path, _WRITERS[self._form_of(path)]([entry.to_dict() for entry in entries]))
        return str(path)

    def load(self, filepath: str | os.PathLike[str] | None = None) -> int:
        """Replace this object's entries with those of the store, or of a file that ``save`` wrote; return how many.

        Items whose class is not to be found here are ``Unrestorable`` and stay in the store as they are.

        Args:
            filepath: The file; None for the store, with all that any process has put there.

        Raises:
            OSError: There is none, it is damaged, or it belongs to another user or can be written by others.
        """
        if filepath is None:
            entries = [_entry(row) for row in self._stored_rows()]
        else:
            path = Path(filepath)
            try:
                found = _READERS[self._form_of(path)](place.read_private(path))
                entries = [DLQEntry.from_dict(data) for data in found]
            except StorageError:
                raise
            except Exception as error:
                raise StorageError(path, f"is damaged or holds no dead letters ({error})") from error
        with self._lock:
            self._entries = {}
        self._keep(entries)
        return self.size()

    def import_lines(self, filepath: str | os.PathLike[str], *, allow_pickle: bool = False) -> int:
        """Add the entries of a file of JSON lines to this object and the store; return how many.

        Args:
            filepath: As ``save`` writes it. All of it is read before anything is added.
            allow_pickle: Accept pickles, which can run any code; then the file must be ours alone.

        Raises:
            OSError: It is not there, damaged, holds pickles that are not allowed, or cannot be trusted.
        """
        path = Path(filepath)
        try:
            content = place.read_private(path) if allow_pickle else path.read_bytes()
            entries = [DLQEntry.from_dict(data) for data in _read_lines(content, pickles=allow_pickle)]
        except encoding.PickleRefusedError as error:
            raise StorageError(path, f"{error}; allow_pickle=True accepts it") from error
        except (ValueError, TypeError) as error:
            raise StorageError(path, f"holds no dead letters ({error})") from error
        self._keep(entries)
        if self.policy.auto_persist:
            self.journal.write(self._statements(entries))
        return len(entries)

    def purge(self, *, before: float | None = None, error_type: str | None = None) -> int:
        """Remove entries from the store, whoever left them, and from this object; return how many the store lost.

        Args:
            before: Only those that failed earlier, in seconds since 1970; None for any time.
            error_type: Only those of this error; None for any.
        """
        self._require_store()
        rows = [row[0] for row in self.journal.read(_CHOOSE, (before, before, error_type, error_type))]
        self.journal.write((_DELETE, (entry_id,)) for entry_id in rows)
        with self._lock:
            for entry_id in rows:
                self._entries.pop(entry_id, None)
        return len(rows)

    def stored(self) -> list[dict[str, Any]]:
        """Return what the store holds, the oldest first, without unpickling anything.

        Returns:
            A dictionary for each entry: its fields, with ``item`` and ``metadata`` in their JSON form, and ``shown``,
            the item's repr. What is kept as pickle is ``{"$repr": …}`` there.
        """
        names = _FIELDS.split(", ")
        rows = [dict(zip(names, row)) for row in self._stored_rows()]
        for row in rows:
            item, form = row["item"], row.pop("form")
            shown = {"$repr": row["shown"]}
            row["item"] = _readable(json.loads, item, shown) if form == "json" else shown
            row["metadata"] = _metadata(json.loads, row["metadata"])
        return rows

    def stored_ids(self) -> set[str]:
        """Return the ids of what is kept for the next run. The queue is open."""
        if not self.policy.auto_persist:
            return set(self._entries)
        return {row[0] for row in self.journal.read("SELECT entry_id FROM entries")}

    def _stored_rows(self) -> list[tuple[Any, ...]]:
        self._require_store()
        return [_typed(row) for row in self.journal.read(_SELECT)]

    def _has_store(self) -> bool:
        """Tell whether there is a store; if so, all that was added here is in it."""
        self.journal.flush()
        return self.journal.exists()

    def _require_store(self) -> None:
        if not self._has_store():
            raise StorageError(self.journal.path, "there is no such store of dead letters")

    def _statements(self, entries: Iterable[DLQEntry]) -> list[Statement]:
        statements: list[Statement] = []
        for entry in entries:
            statements.append((_INSERT, self._row(entry)))
            if self.policy.max_entries:
                statements.append((_DROP_OLDEST, (self.policy.max_entries,)))
        return statements

    def _row(self, entry: DLQEntry) -> tuple[Any, ...]:
        form = self.policy.format.value
        if form == "json":
            item = encoding.to_json(entry.item, pickles=True).encode("ascii")
        else:
            try:
                item = encoding.to_pickle(entry.item)
            except Exception:  # noqa: BLE001 - for whatever reason: as JSON its repr is kept at least
                form, item = "json", encoding.to_json(entry.item, pickles=True).encode("ascii")
        metadata = encoding.to_json(entry.metadata, pickles=True)
        shown = _storable(encoding.show(entry.item))
        return entry.entry_id, *_error_of(entry), entry.retry_count, metadata, entry.style, form, item, shown

    def _form_of(self, path: Path) -> str:
        by_suffix = {".json": "json", ".jsonl": "lines", ".pkl": "pickle", ".pickle": "pickle"}
        return by_suffix.get(path.suffix.lower(), self.policy.format.value)


def _error_of(entry: DLQEntry) -> tuple[Any, ...]:
    message, traceback = _storable(entry.error_message), entry.traceback
    return _storable(entry.error_type), message, entry.timestamp, traceback and _storable(traceback)


def _storable(text: str) -> str:
    """Return a text as SQLite can hold it: file names may have bytes that are no characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _entry(row: tuple[Any, ...]) -> DLQEntry:
    entry_id, error_type, error_message, timestamp, traceback, retry_count, metadata, style, form, item, shown = row
    if style not in STYLES:  # how the item becomes a call is not known
        style, item = "item", encoding.Unrestorable(shown)
    elif form == "json":
        item = _readable(_from_json, item, encoding.Unrestorable(shown))
    else:
        item = encoding.unpickle_or_stand_in(item, shown)
    known = _metadata(_from_json, metadata)
    return DLQEntry(item, error_type, error_message, timestamp, traceback, retry_count, known, style, entry_id)


def _typed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a stored row, with nothing where damage has left something of another type."""
    kinds = ((str if blank is None else type(blank)) for blank in _BLANK)
    return tuple(value if isinstance(value, kind) else blank for value, kind, blank in zip(row, kinds, _BLANK))


_from_json = functools.partial(encoding.from_json, pickles=True)


def _readable(read: Callable[[Any], Any], data: Any, otherwise: Any) -> Any:
    """Return what a stored text says; where one entry is damaged, the others must still be had."""
    try:
        return read(data)
    except (ValueError, TypeError):
        return otherwise


def _metadata(read: Callable[[Any], Any], text: str) -> dict[str, Any]:
    known = _readable(read, text, {})
    return known if isinstance(known, dict) else {}


def _write_lines(entries: list[dict[str, Any]]) -> bytes:
    return "".join(encoding.to_json(entry, pickles=True) + "\n" for entry in entries).encode("ascii")


def _read_lines(content: bytes, *, pickles: bool) -> list[dict[str, Any]]:
    return [encoding.from_json(line, pickles=pickles) for line in content.splitlines() if line.strip()]


_WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "json": lambda entries: encoding.to_json(entries, indent=2, pickles=True).encode("ascii"),
    "lines": _write_lines,
    "pickle": encoding.to_pickle,
}
_READERS: dict[str, Callable[[bytes], Any]] = {
    "json": lambda content: encoding.from_json(content, pickles=True),
    "lines": lambda content: _read_lines(content, pickles=True),
    "pickle": encoding.from_pickle,
}
