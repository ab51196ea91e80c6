"""Checkpoints: what was computed once is not computed again, in this run of the program or the next.

    admit ──► the journal holds this call's result? ──► Answered        settle ──► append (a thread commits)
                │ no                                                       ▲
                ▼ on inward                                                │ values; errors are not kept

A result is found by its place (the map's ordinal, or the ``key`` of ``options``; and the position in it), and is given
out only if function and arguments are those that it came from.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amorsize_executor.errors import (
    CheckpointMismatchError,
    InvalidParameterError,
    InvalidParameterTypeError,
    StorageError,
)
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import RUN, Admission, Answered, Call, Middleware, Outcome
from amorsize_executor.parameters import check_choice, check_count, check_flag
from amorsize_executor.storage import encoding, place
from amorsize_executor.storage.identity import FunctionIdentity, digest, digest_call, identify
from amorsize_executor.storage.journal import Journal, JournalKind
from amorsize_executor.storage.snapshot import checksum

COMMIT_AFTER_S = 1.0
"""Results are committed after so many seconds even where they are fewer than ``checkpoint_interval``."""

SUFFIX = ".sqlite3"
FORMATS = "pickle", "json"
_KNOWN_MAPS = 64  # maps and keys whose function need not be identified again

KIND = JournalKind(
    0x616D6370,  # "amcp"
    3,
    (
        """CREATE TABLE maps (
            id INTEGER PRIMARY KEY, place TEXT, function TEXT, parts TEXT, first_at REAL, checksum TEXT
        )""",
        """CREATE TABLE results (
            map INTEGER, position INTEGER, digest BLOB, form TEXT, value BLOB, checksum TEXT,
            PRIMARY KEY (map, position)
        )""",
    ),
)
_INSERT_MAP = "INSERT OR REPLACE INTO maps VALUES (?, ?, ?, ?, ?, ?)"
_FIND_MAP = "SELECT checksum, function, parts FROM maps WHERE id = ?"
_INSERT_RESULT = "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)"
_Stored = tuple[bytes, str, bytes, str]  # digest, form, value, checksum
_FIND_RESULT = "SELECT digest, form, value, checksum FROM results WHERE map = ? AND position = ?"


@dataclass(frozen=True)
class CheckpointPolicy:
    """How results outlive the program.

    Attributes:
        checkpoint_dir: Directory for journals and snapshots; made with mode 0700.
        checkpoint_interval: Results that are committed together at the latest, >= 0; also after a second. 0 turns
            the executor's checkpoint off.
        checkpoint_name: The run's name, a file name; an executor's checkpoint needs one.
        save_format: ``"pickle"``, or ``"json"``, which people can read and which holds builtin types only.
        keep_history: Older versions of a snapshot to keep beside the newest, >= 1.
        auto_cleanup: Remove versions of a snapshot that are older than those.

    Raises:
        ValueError: A parameter is out of its range.
    """

    checkpoint_dir: str | os.PathLike[str] = "./checkpoints"
    checkpoint_interval: int = 100
    checkpoint_name: str | None = None
    save_format: str = "pickle"
    keep_history: int = 2
    auto_cleanup: bool = True

    def __post_init__(self) -> None:
        place.check_path("checkpoint_dir", self.checkpoint_dir)
        check_count("checkpoint_interval", self.checkpoint_interval, least=0, optional=False)
        if self.checkpoint_name is not None:
            place.check_name("checkpoint_name", self.checkpoint_name)
        check_choice("save_format", self.save_format, FORMATS)
        check_count("keep_history", self.keep_history, optional=False)
        check_flag("auto_cleanup", self.auto_cleanup)


def layer_of(value: object) -> Middleware:
    """Return the layer that ``checkpoint=value`` asks for.

    Args:
        value: A run's name, a ``CheckpointPolicy`` with one, or a layer.

    Raises:
        InvalidParameterTypeError: It is none of these.
        InvalidParameterError: The name is no file name, or missing.
    """
    if isinstance(value, str):
        value = CheckpointPolicy(checkpoint_name=value)
    if isinstance(value, CheckpointPolicy):
        return Checkpoint(value)
    if isinstance(value, Middleware):
        return value
    raise InvalidParameterTypeError("checkpoint", value, "must be a name, a CheckpointPolicy or a ready layer")


# --- the layer ---


@dataclass(slots=True)
class _Map:
    """A map, or a call with a key, as the journal knows it.

    Attributes:
        function: Whose results these are.
        number: The journal's key.
        text: What it is called in errors.
        identity: Who the function is.
        is_named: A ``key`` vouches for what has no stable hash.
        may_hold: The journal may hold results.
        difference: Why none of them can be used; empty if they can.
        has_stored: Results of this function came in this run.
        is_warned: It was said that a result cannot be stored, or not be read back.
    """

    function: Callable[..., Any]
    number: int
    text: str
    identity: FunctionIdentity
    is_named: bool
    may_hold: bool
    difference: str
    has_stored: bool = False
    is_warned: bool = False


class Checkpoint(Middleware):
    """Answers calls that a journal holds, and appends the results of the others. May be shared by executors.

    Submitted calls take part if they have a ``key``. Where the journal cannot be opened or written any more, calls
    that have not started fail with ``StorageError``; those that run deliver what they computed.

    Args:
        policy: With a ``checkpoint_name``.
    """

    def __init__(self, policy: CheckpointPolicy) -> None:
        if policy.checkpoint_name is None:
            raise InvalidParameterError("checkpoint_name", None, "an executor's checkpoint needs a name")
        self.policy = policy
        self.name = policy.checkpoint_name
        self._journal = open_journal(policy.checkpoint_dir, self.name, commit_every=policy.checkpoint_interval or 1)
        self._maps: OrderedDict[tuple[Any, ...], _Map] = OrderedDict()
        self._fresh: OrderedDict[tuple[int, int], tuple[int, _Stored]] = OrderedDict()  # by key, not committed yet
        self._running: dict[tuple[int, int], list[bytes]] = {}  # hashes of calls with a key, by key and position
        self._lock = threading.Lock()  # guards what follows, _maps, _fresh and _running
        self._users = 0
        self._refusal: StorageError | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r})"

    def open(self) -> None:
        """Open the journal; where that fails, ``admit`` says why."""
        if not self.policy.checkpoint_interval:
            return
        with self._lock:
            self._users += 1
            try:
                self._journal.open()
                self._refusal = None
            except StorageError as error:
                logger.error("%s", error)
                self._refusal = error

    def close(self) -> None:
        """Commit everything; the last executor's close closes the journal."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._journal.close()
                self._maps.clear()
                self._fresh.clear()
                self._running.clear()

    def admit(self, call: Call) -> Admission:
        """Answer with the stored result, if there is one.

        Raises:
            CheckpointMismatchError: What is stored came from another function or other arguments.
            UnstableKeyError: The function or the arguments have no stable hash, and there is no ``key``.
            StorageError: The journal cannot be read or written.
        """
        if (call.batch is None and call.key is None) or not self.policy.checkpoint_interval:
            return RUN
        failure = self._refusal or self._journal.failure
        if failure is not None:
            raise StorageError(failure.path, failure.problem)
        entry = self._map_of(call)
        if entry.difference:
            raise CheckpointMismatchError(self.name, entry.text, entry.difference)
        found = digest_call(call.args, call.kwargs, lenient=entry.is_named, before=entry.identity.digest)
        if entry.is_named:  # before looking: one that ends meanwhile has stored its result by then
            self._take_place(entry, call.position, found)
        call.state[self] = entry, found
        call.identity = self.name, entry.number, call.position, found
        try:
            stored = self._find(entry, call.position)
            outcome = None if stored is None else self._restore(entry, call.position, found, *stored)
        except BaseException:  # the call ends by it, or is asked about again: nothing of this time may stay
            self._forget(call)
            raise
        if outcome is None:
            return RUN
        self._forget(call)
        return Answered(outcome)

    def settle(self, call: Call, outcome: Outcome) -> None:
        """Append a value to the journal. It reaches the caller, whatever comes of that."""
        if self in call.state and outcome.error is None:
            entry, found = call.state[self]
            try:
                form, value = self._encode(outcome.value)
                total = _seal((entry.number, call.position), found, value)
                self._store(entry, call.position, (found, form, value, total))
            except Exception as error:  # noqa: BLE001 - a result that cannot be stored is still a result
                self._warn(entry, f"a result of {entry.text} is not stored: {error}")
        self._forget(call)

    def retract(self, call: Call, reason: str) -> None:
        """Forget what was noted about a call that may be admitted again."""
        del reason
        self._forget(call)

    def _take_place(self, entry: _Map, position: int, found: bytes) -> None:
        """Note that a call with a key is about to run, unless another one of that key runs."""
        with self._lock:
            running = self._running.setdefault((entry.number, position), [])
            is_other = bool(running) and running[0] != found
            if not is_other:
                running.append(found)
        if is_other:
            difference = f"call {position} has another function or arguments than one that runs now"
            raise CheckpointMismatchError(self.name, entry.text, difference)

    def _forget(self, call: Call) -> None:
        kept = call.state.pop(self, None)
        if kept is not None and kept[0].is_named:
            where = kept[0].number, call.position
            with self._lock:
                self._running[where].pop()
                if not self._running[where]:
                    del self._running[where]

    def _store(self, entry: _Map, position: int, stored: _Stored) -> None:
        number = self._journal.append(_INSERT_RESULT, (entry.number, position, *stored))
        entry.has_stored = True
        if not entry.is_named:  # such a place does not come back in this run
            return
        with self._lock:
            self._fresh[entry.number, position] = number, stored
            while self._fresh and next(iter(self._fresh.values()))[0] <= self._journal.written:
                self._fresh.popitem(last=False)

    def _find(self, entry: _Map, position: int) -> _Stored | None:
        with self._lock:
            fresh = self._fresh.get((entry.number, position))
        if fresh is not None:
            return fresh[1]
        rows = self._journal.read(_FIND_RESULT, (entry.number, position)) if entry.may_hold else []
        return rows[0] if rows else None

    def _encode(self, value: Any) -> tuple[str, bytes]:
        if self.policy.save_format == "json":
            return "json", encoding.to_json(value).encode("ascii")
        return "pickle", encoding.to_pickle(value)

    def _restore(
        self, entry: _Map, position: int, found: bytes, stored: bytes, form: str, value: bytes, total: str
    ) -> Outcome | None:
        """Return a stored value if it belongs to this very call; None, and a warning, if it cannot be read any more."""
        if not _is_sound(total, (entry.number, position), stored, value):
            problem = "is damaged"
        elif stored != found:
            difference = f"the arguments of call {position} are not those whose result is stored"
            raise CheckpointMismatchError(self.name, entry.text, difference)
        else:
            try:
                return Outcome(encoding.from_json(value) if form == "json" else encoding.from_pickle(value))
            except Exception as error:  # noqa: BLE001 - what an unpickled class raises is no reason to lose the call
                problem = f"cannot be read back ({error!r})"
        self._warn(entry, f"the result of call {position} of {entry.text} {problem}, so it is computed again")
        return None

    def _warn(self, entry: _Map, text: str) -> None:
        """Say something once a map."""
        if not entry.is_warned:
            logger.warning("checkpoint %r: %s", self.name, text)
        entry.is_warned = True

    def _map_of(self, call: Call) -> _Map:
        with self._lock:
            try:
                # What compares equal is told apart by its form, inside of tuples too: 1, 1.0 and True are three keys.
                known = (call.batch,) if call.key is None else (type(call.key), call.key, repr(call.key))
                entry = self._maps.get(known)
            except TypeError:
                raise InvalidParameterTypeError("key", call.key, "must be hashable: text, numbers, tuples") from None
            if entry is None or entry.function is not call.function:
                entry = self._maps[known] = self._look_up(call, entry)
                while len(self._maps) > _KNOWN_MAPS:
                    self._maps.popitem(last=False)
            return entry

    def _look_up(self, call: Call, before: _Map | None) -> _Map:
        """Compare a map's function with the one that its stored results came from, in this run or an earlier one."""
        is_named = call.key is not None
        text = f"key {encoding.show(call.key)}" if is_named else f"map {call.batch}"
        name = ("key", call.key) if is_named else ("map", call.batch)
        number = int.from_bytes(digest(name, "the key")[:8], "big", signed=True)
        identity = identify(call.function, lenient=is_named)
        if before is not None and before.has_stored:
            difference = _difference(identity, before.identity.name, before.identity.parts)
            return replace(before, function=call.function, difference=difference)
        difference = ""
        may_hold = bool(self._journal.read("SELECT 1 FROM results WHERE map = ? LIMIT 1", (number,)))
        rows = self._journal.read(_FIND_MAP, (number,)) if may_hold else []
        if rows and _is_sound(rows[0][0], (number, *rows[0][1:])):
            _total, function, parts = rows[0]
            difference = _difference(identity, function, json.loads(parts))
        else:
            if may_hold:  # each result tells by itself whether it is this function's
                logger.warning("checkpoint %r: the entry of %s is damaged, and is written anew", self.name, text)
            parts = json.dumps(identity.parts)
            row = number, text, identity.name, parts, time.time(), _seal((number, identity.name, parts))
            self._journal.append(_INSERT_MAP, row)
        # A key may come back within this run, when the journal has got results by it.
        return _Map(call.function, number, text, identity, is_named, may_hold or is_named, difference)


def _seal(place: tuple[object, ...], *content: bytes) -> str:
    """Return what a row adds up to, with the place where it belongs."""
    return checksum(repr(place).encode("utf-8"), *content)


def _is_sound(total: object, place: tuple[object, ...], *content: bytes) -> bool:
    """Tell whether a row is what was written, and where it was."""
    try:
        return _seal(place, *content) == total
    except TypeError:  # not even of the type that was written
        return False


def _difference(identity: FunctionIdentity, name: str, parts: dict[str, str]) -> str:
    """Say what tells a function from the one that stored results came from; empty if nothing does."""
    differing = identity.difference(parts)
    if not differing:
        return ""
    whose = "as when the stored results came" if name == identity.name else f"those of {name}"
    return f"{differing} of the function {identity.name} are not {whose}"


def open_journal(directory: str | os.PathLike[str], name: str, *, commit_every: int = 100) -> Journal:
    """Return a run's journal, not open yet."""
    path = Path(directory) / (place.check_name("checkpoint_name", name) + SUFFIX)
    return Journal(path, KIND, commit_every=commit_every, commit_after_s=COMMIT_AFTER_S)
