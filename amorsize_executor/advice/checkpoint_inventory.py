"""What lies in a directory of checkpoints: journals and snapshots, by name. Nothing is unpickled here."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from amorsize_executor.errors import StorageError
from amorsize_executor.middleware.checkpoint import SUFFIX, open_journal
from amorsize_executor.middleware.checkpoint_snapshot import SUFFIXES, files_of, is_whole, list_snapshots
from amorsize_executor.storage import place
from amorsize_executor.storage.journal import FOREIGN

_COUNT_RESULTS = """SELECT place, function, count(position), coalesce(sum(length(value)), 0), first_at
    FROM maps LEFT JOIN results ON results.map = maps.id GROUP BY maps.id ORDER BY maps.first_at"""


def list_all(directory: Path) -> list[dict[str, Any]]:
    """Return the journals and snapshots of a directory, by name: ``name``, ``kind``, ``bytes``, ``modified_at``.

    Other programs' files are passed over.

    Raises:
        OSError: There is no such directory.
    """
    names = [path.name[: -len(SUFFIX)] for path in sorted(directory.glob(f"*{SUFFIX}")) if path.is_file()]
    journals = [(name, open_journal(directory, name)) for name in names if place.is_name(name)]
    found = [("journal", name, journal.path) for name, journal in journals if not journal.is_foreign()]
    for name in list_snapshots(directory):
        newest = [files_of(directory, name, form) for form in SUFFIXES]
        paths = [files.path(files.versions()[0]) for files in newest if files.versions()]
        found += [("snapshot", name, max(paths, key=lambda path: path.stat().st_mtime_ns))]
    return [{"name": name, "kind": kind, **_describe_files(path)} for kind, name, path in found]


def _describe_files(path: Path) -> dict[str, float]:
    """Return the size of a file and the time of its last change; what a journal has not taken in yet counts too."""
    facts = [path.stat()]
    with contextlib.suppress(FileNotFoundError):
        facts.append(path.with_name(f"{path.name}-wal").stat())
    return {"bytes": sum(fact.st_size for fact in facts), "modified_at": max(fact.st_mtime for fact in facts)}


def describe(directory: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Return what a name holds, without unpickling anything.

    Returns:
        ``maps``: of the journal, each with ``place``, ``function``, ``results`` (how many), ``bytes`` and ``first_at``.
        ``snapshots``: each with ``version``, ``file``, ``bytes``, ``modified_at`` and ``is_whole``.

    Raises:
        OSError: There is no such checkpoint, or it is not ours alone, or damaged.
    """
    journal = open_journal(directory, name)
    maps: list[dict[str, Any]] = []
    if journal.exists():
        try:
            rows = journal.read(_COUNT_RESULTS)
        finally:
            journal.close()
        maps = [dict(zip(("place", "function", "results", "bytes", "first_at"), row)) for row in rows]
    snapshots = [
        {
            "version": version,
            "file": files.path(version).name,
            "bytes": files.path(version).stat().st_size,
            "modified_at": files.path(version).stat().st_mtime,
            "is_whole": is_whole(place.read_private(files.path(version)), form),
        }
        for form, files in ((form, files_of(directory, name, form)) for form in SUFFIXES)
        for version in files.versions()
    ]
    if not journal.exists() and not snapshots:
        raise StorageError(directory, f"there is no checkpoint {name!r}")
    return {"maps": maps, "snapshots": snapshots}


def delete_all(directory: Path, name: str) -> list[str]:
    """Remove the journal and all snapshots of a name; return the names of the files.

    Raises:
        OSError: There is no such checkpoint, it cannot be removed, or another program's database has its name.
    """
    journal = open_journal(directory, name)
    if journal.is_foreign():
        raise StorageError(journal.path, f"{FOREIGN}, so it is not removed")
    paths = place.files_of_database(journal.path)
    for form in SUFFIXES:
        files = files_of(directory, name, form)
        paths += [*(files.path(version) for version in files.versions()), *files.leftovers()]
    there = [path for path in paths if path.exists()]
    if not there:
        raise StorageError(directory, f"there is no checkpoint {name!r}")
    for path in reversed(there):
        path.unlink(missing_ok=True)
    return [path.name for path in there]
