"""Versioned files, each written whole: the newest, and some before it to fall back on.

A save links the newest file to the next older name and then replaces it in one step, so that at no moment there is
no good file under the newest name. Each file says what its content must add up to; a damaged one is passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from amorsize_executor.errors import StorageError
from amorsize_executor.events import logger
from amorsize_executor.storage import place

T = TypeVar("T")


class AllDamagedError(StorageError):
    """There are versions, all ours alone, and none is whole."""


def checksum(*parts: bytes) -> str:
    """Return what a content adds up to, in hexadecimal digits; it may come in parts."""
    total = blake2b(digest_size=16)
    for part in parts:
        total.update(part)
    return total.hexdigest()


class SnapshotFiles:
    """The versions of one snapshot: ``<stem><suffix>``, then ``<stem>_v1<suffix>``, ``_v2``, … from new to old.

    Args:
        directory: Where they lie; it is there.
        stem: The newest one's name without suffix.
        suffix: Of all of them, with its dot.
    """

    def __init__(self, directory: Path, stem: str, suffix: str) -> None:
        self._directory = directory
        self._stem = stem
        self._suffix = suffix

    def path(self, version: int = 0) -> Path:
        """Return where a version lies; 0 is the newest."""
        return self._directory / f"{self._stem}{f'_v{version}' if version else ''}{self._suffix}"

    def versions(self) -> list[int]:
        """Return the numbers of the versions that are there, ascending: the newest first."""
        pattern = re.compile(re.escape(self._stem) + r"(?:_v([1-9]\d*))?" + re.escape(self._suffix))
        found = (pattern.fullmatch(entry.name) for entry in self._directory.iterdir())
        return sorted(int(match[1] or 0) for match in found if match)

    def save(self, content: bytes, *, keep: int, clean_up: bool) -> Path:
        """Write a new newest version; those before become older by one.

        Args:
            content: With its checksum.
            keep: Older versions to keep, >= 1.
            clean_up: Remove all that are older; otherwise none is removed.

        Raises:
            StorageError: It cannot be written. The newest version is what it was.
        """
        try:
            with place.locked(self._directory):
                place.write_atomically(self.path(), content, first=lambda: self._shift(keep, clean_up=clean_up))
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(self.path(), f"cannot be written: {error.strerror or error}") from error
        return self.path()

    def _shift(self, keep: int, *, clean_up: bool) -> None:
        """Make room at version 1 and put a second name for the newest there."""
        there = self.versions()
        if clean_up:
            for version in there:
                if version > keep:
                    self.path(version).unlink(missing_ok=True)
            there = [version for version in there if version <= keep]
        if 0 not in there:
            return
        free = next(version for version in range(1, len(there) + 1) if version not in there)
        for version in range(min(free, keep) if clean_up else free, 1, -1):
            self.path(version - 1).replace(self.path(version))
        older = self.path(1)
        older.unlink(missing_ok=True)
        try:
            os.link(self.path(), older)
        except OSError:  # a file system without links: then a copy
            place.write_atomically(older, place.read_private(self.path()))

    def load(self, decode: Callable[[bytes], T]) -> T | None:
        """Return the newest version that is whole; None where there is no version at all.

        Args:
            decode: Turns content into what it holds; raises ValueError where it is damaged.

        Raises:
            AllDamagedError: No version is whole.
            StorageError: A version is not ours alone.
        """
        first: Exception | None = None
        for version in self.versions():
            path = self.path(version)
            try:
                value = decode(place.read_private(path))
            except FileNotFoundError:  # another process saves just now
                continue
            except ValueError as error:
                logger.warning("%s is damaged (%s); falling back to the version before", path, error)
                first = first or error
                continue
            return value
        if first is not None:
            raise AllDamagedError(self.path(), f"is damaged, and no older version is whole ({first})") from first
        return None

    def delete(self) -> int:
        """Remove all versions, and what a killed save left; return how many versions there were."""
        versions = self.versions()
        for version in versions:
            self.path(version).unlink(missing_ok=True)
        for path in self.leftovers():
            path.unlink(missing_ok=True)
        return len(versions)

    def leftovers(self) -> list[Path]:
        """Return what killed saves left."""
        pattern = re.compile(rf"\.{re.escape(self._stem)}(?:_v[1-9]\d*)?{re.escape(self._suffix)}\.\w+")
        return [entry for entry in self._directory.iterdir() if pattern.fullmatch(entry.name)]
