"""Snapshots of how far a program has come, for programs that keep books of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amorsize_executor.errors import InvalidParameterTypeError, StorageError
from amorsize_executor.middleware.checkpoint import CheckpointPolicy
from amorsize_executor.parameters import check_count
from amorsize_executor.storage import encoding, place
from amorsize_executor.storage.snapshot import AllDamagedError, SnapshotFiles, checksum

SUFFIXES = {"pickle": ".pkl", "json": ".json"}


@dataclass
class CheckpointState:
    """How far a program has come.

    Attributes:
        completed_indices: Which items are done.
        results: Their results, one for each index, in the same order.
        total_items: Items in all.
        checkpoint_time: Seconds since 1970.
        n_jobs: Workers.
        chunksize: Calls that travel together.
        metadata: What else is worth keeping.
    """

    completed_indices: list[int]
    results: list[Any]
    total_items: int
    checkpoint_time: float
    n_jobs: int
    chunksize: int
    metadata: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the seven fields; the results are the same objects."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CheckpointState:
        """Return the state that ``to_dict`` was asked of.

        Raises:
            ValueError: Fields are missing, or are too many.
        """
        if not isinstance(data, dict) or set(data) != set(cls.__dataclass_fields__):
            message = f"a checkpoint has the fields {', '.join(cls.__dataclass_fields__)}"
            raise ValueError(message)
        return cls(**data)


class CheckpointManager:
    """Saves and loads snapshots: whole files, the newest and ``keep_history`` older ones.

    ``<name>_checkpoint.pkl`` or ``.json`` is the newest version, ``<name>_checkpoint_v1`` the one before it, and so on.
    Threads and processes may use one directory.

    Args:
        policy: Where, how and how many; the directory is made.

    Raises:
        OSError: The directory cannot be made, or others may write into it.
    """

    def __init__(self, policy: CheckpointPolicy) -> None:
        if not isinstance(policy, CheckpointPolicy):
            raise InvalidParameterTypeError("policy", policy, "must be a CheckpointPolicy")
        self.policy = policy
        self._directory = Path(policy.checkpoint_dir)
        place.make_directory(self._directory)

    def save_checkpoint(self, name: str, state: CheckpointState) -> Path:
        """Write a new newest version, in one step; return its path.

        Raises:
            ValueError: The name is no file name.
            OSError: It cannot be written, or JSON cannot hold it. The newest version is what it was.
        """
        files = self._files(name, self.policy.save_format)
        try:
            content = _ENCODERS[self.policy.save_format](state)
        except Exception as error:
            raise StorageError(files.path(), f"cannot hold this checkpoint: {error}") from error
        return files.save(content, keep=self.policy.keep_history, clean_up=self.policy.auto_cleanup)

    def load_checkpoint(self, name: str) -> CheckpointState | None:
        """Return the newest version that is whole, of either format; None where there is none.

        Raises:
            ValueError: The name is no file name.
            OSError: All versions are damaged, or one belongs to another user or can be written by others.
        """
        found = [(form, self._files(name, form)) for form in SUFFIXES]
        found.sort(key=lambda pair: _modified_at(pair[1]), reverse=True)
        damaged = None
        for form, files in found:
            try:
                state = files.load(_DECODERS[form])
            except AllDamagedError as error:
                damaged = damaged or error
                continue
            if state is not None:
                return state
        if damaged is not None:
            raise damaged
        return None

    def delete_checkpoint(self, name: str) -> int:
        """Remove all versions, of both formats; return how many files there were."""
        return sum(self._files(name, form).delete() for form in SUFFIXES)

    def list_checkpoints(self) -> list[str]:
        """Return the names of all snapshots in the directory, of both formats, sorted."""
        return list_snapshots(self._directory)

    def _files(self, name: str, form: str) -> SnapshotFiles:
        return files_of(self._directory, name, form)


def files_of(directory: Path, name: str, form: str) -> SnapshotFiles:
    """Return a snapshot's files of a format, ``"pickle"`` or ``"json"``."""
    return SnapshotFiles(directory, place.check_name("name", name) + "_checkpoint", SUFFIXES[form])


def list_snapshots(directory: Path) -> list[str]:
    """Return the names of all snapshots in a directory, sorted."""
    pattern = re.compile(r"(.+)_checkpoint(?:_v[1-9]\d*)?\.(?:pkl|json)")
    found = (pattern.fullmatch(entry.name) for entry in directory.iterdir())
    return sorted({match[1] for match in found if match and place.is_name(match[1])})


def _modified_at(files: SnapshotFiles) -> int:
    versions = files.versions()
    try:
        return files.path(versions[0]).stat().st_mtime_ns if versions else 0
    except FileNotFoundError:
        return 0


_SEAL = re.compile(rb"\namorsize-checkpoint 1 ([0-9a-f]{32})\n")
_SEAL_BYTES = 56


def _to_pickle_file(state: CheckpointState) -> bytes:
    """A pickle of the plain dictionary, which ends where a pickle ends; then the checksum."""
    content = encoding.to_pickle(state.to_dict())
    return content + f"\namorsize-checkpoint 1 {checksum(content)}\n".encode("ascii")


def _unsealed(content: bytes) -> bytes:
    content, seal = content[:-_SEAL_BYTES], _SEAL.fullmatch(content[-_SEAL_BYTES:])
    if seal is None or seal[1].decode("ascii") != checksum(content):
        message = "its checksum is missing or wrong"
        raise ValueError(message)
    return content


def _from_pickle_file(content: bytes) -> CheckpointState:
    content = _unsealed(content)
    try:
        data = encoding.from_pickle(content)
    except Exception as error:
        message = f"it does not unpickle: {error!r}"
        raise ValueError(message) from error
    return CheckpointState.from_dict(data)


def _to_json_file(state: CheckpointState) -> bytes:
    """One object with the seven fields, the format's version and the checksum of the rest."""
    fields = json.loads(encoding.to_json(state.to_dict()))
    sealed = {**fields, "format_version": 1, "checksum": checksum(_canonical(fields))}
    return json.dumps(sealed, indent=2).encode("ascii")


def _from_json_file(content: bytes) -> CheckpointState:
    try:
        fields = json.loads(content)
    except RecursionError as error:
        message = "it is nested too deeply"
        raise ValueError(message) from error
    if not isinstance(fields, dict) or fields.pop("format_version", None) != 1:
        message = "it is no checkpoint of format version 1"
        raise ValueError(message)
    if fields.pop("checksum", None) != checksum(_canonical(fields)):
        message = "its checksum is missing or wrong"
        raise ValueError(message)
    return CheckpointState.from_dict(encoding.from_json(json.dumps(fields)))


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


_ENCODERS = {"pickle": _to_pickle_file, "json": _to_json_file}
_DECODERS = {"pickle": _from_pickle_file, "json": _from_json_file}


def is_whole(content: bytes, form: str) -> bool:
    """Tell whether a file adds up to its checksum; nothing is unpickled."""
    try:
        _unsealed(content) if form == "pickle" else _from_json_file(content)
    except ValueError:
        return False
    return True


def get_pending_items(data: Iterable[Any], checkpoint_state: CheckpointState | None) -> tuple[list[int], list[Any]]:
    """Return what is left to do.

    Args:
        data: All items, as in the run that was checkpointed.
        checkpoint_state: How far that run came; None for nowhere.

    Returns:
        The indices of pending items, ascending, and the items, as many.
    """
    done = set() if checkpoint_state is None else set(checkpoint_state.completed_indices)
    pending = [(index, item) for index, item in enumerate(data) if index not in done]
    return [index for index, _item in pending], [item for _index, item in pending]


def merge_results(
    new_results: Sequence[Any],
    pending_indices: Sequence[int],
    checkpoint_state: CheckpointState | None,
    total_items: int,
    *,
    allow_gaps: bool = False,
) -> list[Any]:
    """Put checkpointed and new results into the order of the items.

    Args:
        new_results: Results of the pending items, in the order of ``pending_indices``.
        pending_indices: As ``get_pending_items`` returned them; indices of ``total_items`` and more are ignored.
        checkpoint_state: Holds the other results; None for none. New results win over them.
        total_items: Length of the returned list, >= 0.
        allow_gaps: Put None where there is no result, instead of raising.

    Raises:
        ValueError: There are not as many results as indices, an index is negative, or a result is missing.
    """
    check_count("total_items", total_items, least=0, optional=False)
    stored = CheckpointState([], [], 0, 0.0, 0, 0, {}) if checkpoint_state is None else checkpoint_state
    merged: dict[int, Any] = {}
    for what, indices, results in (
        ("the checkpoint's", stored.completed_indices, stored.results),
        ("the new", pending_indices, new_results),
    ):
        if len(indices) != len(results):
            message = f"{what} results are {len(results)} for {len(indices)} indices"
            raise ValueError(message)
        if any(index < 0 for index in indices):
            message = f"{what} indices go below 0: {min(indices)}"
            raise ValueError(message)
        merged.update(zip(indices, results))
    missing = total_items - sum(index < total_items for index in merged)
    if missing and not allow_gaps:
        first = next(index for index in range(total_items) if index not in merged)
        message = f"{missing} of {total_items} items have no result, the first is {first}"
        raise ValueError(message)
    return [merged.get(index) for index in range(total_items)]
