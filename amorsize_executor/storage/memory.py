"""Memory: what executors learned of functions, kept between runs in an SQLite file.

A row is a function's, on machines of one kind. It is numbers and names alone; nothing is unpickled.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from amorsize_executor.events import logger
from amorsize_executor.records import Experience, Lane, Measurement
from amorsize_executor.storage import place
from amorsize_executor.storage.identity import FunctionIdentity, identify_definition
from amorsize_executor.storage.journal import Journal, JournalKind

MOST_FUNCTIONS = 1000
"""Rows that are kept; those that were not learned again for longest go first."""

_SUMS = "calls", "wall_s", "cpu_s", "waiting_s", "squares_s2", "longest_s", "bytes_in", "bytes_out", "memory_growth"
KIND = JournalKind(
    0x616D6D65,  # "amme"
    1,
    (
        f"""CREATE TABLE functions (
            digest BLOB, machine TEXT, name TEXT, learned_at REAL, {", ".join(f"{column} REAL" for column in _SUMS)},
            lane TEXT, workers INTEGER, chunksize INTEGER, PRIMARY KEY (digest, machine)
        )""",
    ),
)
_COLUMNS = ", ".join((*_SUMS, "lane", "workers", "chunksize"))
_FIND = f"SELECT {_COLUMNS} FROM functions WHERE digest = ? AND machine = ?"  # noqa: S608 - names of ours
_KEEP = "INSERT OR REPLACE INTO functions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET = f"""DELETE FROM functions WHERE rowid NOT IN
    (SELECT rowid FROM functions ORDER BY learned_at DESC LIMIT {MOST_FUNCTIONS})"""  # noqa: S608 - a number of ours


class Memory:
    """A file of what was learned. Several processes may share it.

    Args:
        path: The file; made when first used, in a directory that only we can write.
        machine: The kind of machine that this is; what was learned on another kind is left alone.
        clock: Gives the time in seconds since 1970.
    """

    def __init__(self, path: str | os.PathLike[str], machine: str, clock: Callable[[], float] = time.time) -> None:
        place.check_path("memory", path)
        self._journal = Journal(Path(path), KIND)
        self._machine = machine
        self._clock = clock

    def recall(self, function: Callable[..., Any]) -> tuple[FunctionIdentity, Experience | None]:
        """Return who a function is, and what is known of it; None where that is nothing.

        Raises:
            StorageError: The file cannot be used.
        """
        identity = identify_definition(function)
        rows = self._journal.read(_FIND, (identity.digest, self._machine))
        return identity, _read_row(identity.name, rows[0]) if rows else None

    def keep(self, learned: Iterable[tuple[FunctionIdentity, Experience]]) -> None:
        """Keep what was learned in the place of what was known, in one transaction.

        Raises:
            StorageError: It cannot be written; what was known before is still there.
        """
        now = self._clock()
        rows = [
            (
                *(identity.digest, self._machine, identity.name, now),
                *(getattr(known.measured, column) for column in _SUMS),
                *(str(known.measured.lane), known.workers, known.chunksize),
            )
            for identity, known in learned
            if known.measured is not None
        ]
        if rows:
            self._journal.write([*((_KEEP, row) for row in rows), (_FORGET, ())])

    def close(self) -> None:
        """Let go of the file."""
        self._journal.close()


def _read_row(name: str, row: tuple[Any, ...]) -> Experience | None:
    """Return what a row says, or None where a hand has spoilt it."""
    *sums, lane, workers, chunksize = row
    counts = [count for count in (workers, chunksize) if count is not None]
    is_sound = (
        all(isinstance(number, (int, float)) and 0 <= number < math.inf for number in sums)
        and all(isinstance(count, int) and count >= 1 for count in counts)
        and sums[0] >= 1
        and lane in {str(known) for known in Lane}
    )
    if not is_sound:
        logger.warning("what the memory holds of %s makes no sense, and is not used", name)
        return None
    calls, wall_s, cpu_s, waiting_s, squares_s2, longest_s, bytes_in, bytes_out, growth = sums
    measured = Measurement(
        int(calls), wall_s, cpu_s, waiting_s, squares_s2, longest_s, int(bytes_in), int(bytes_out), int(growth),
        Lane(lane),
    )  # fmt: skip
    return Experience("An earlier run", measured, workers, chunksize)
