"""Where durable files may lie: names, directories of our own, and files that nobody else can have written.

Directories are made with mode 0700 and files with 0600. Before anything is unpickled, the file, its directory and
what SQLite keeps beside it are looked at: what another user owns, or what group or others can write, is refused.
Systems without user ids (Windows) have no such check; there the directory's access list decides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, StorageError

NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|ncpfs|davfs|fuse\.(sshfs|glusterfs|s3fs|rclone)",
)
_NAME = re.compile(r"\w[\w.@+=, -]*")
_LONGEST_NAME = 120
_lock = threading.Lock()
_SIDE_FILES = "-wal", "-shm", "-journal"


def check_name(parameter: str, name: object) -> str:
    """Return a name that is good for a file inside a directory, and nowhere else.

    Raises:
        InvalidParameterError: It would leave the directory, is hidden, or is no portable file name.
    """
    rule = "must be a file name: letters, digits and, after the first, any of ' .,@+=_-'; at most 120 characters"
    if not isinstance(name, str):
        raise InvalidParameterTypeError(parameter, name, rule)
    if not is_name(name):
        raise InvalidParameterError(parameter, name, rule)
    return name


def is_name(name: str) -> bool:
    """Tell whether ``check_name`` takes a text."""
    return _NAME.fullmatch(name) is not None and len(name) <= _LONGEST_NAME and name == name.rstrip(". ")


def check_path(parameter: str, value: object) -> None:
    """Raise unless ``value`` is a path that is not empty."""
    rule = "must be a path that is not empty"
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidParameterTypeError(parameter, value, rule)
    if not os.fspath(value):
        raise InvalidParameterError(parameter, value, rule)


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, each with mode 0700; one that is there is left as it is, and checked.

    Raises:
        StorageError: It cannot be made, is no directory, or others may write into it.
    """
    try:
        missing = [directory, *directory.parents]
        missing = missing[: next((at for at, path in enumerate(missing) if path.exists()), len(missing))]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
        check_directory(directory)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(directory, f"the directory cannot be used: {error.strerror or error}") from error


def check_directory(directory: Path) -> None:
    """Raise StorageError unless a directory is there, is ours, and only we can write into it."""
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(directory, "is not a directory")
    _check_owner(directory, status)


def check_private(path: Path) -> None:
    """Raise StorageError unless a file, where there is one, is a plain file of ours that only we can write."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(path, f"cannot be looked at: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(path, "is not a plain file, so nothing is read from it")
    _check_owner(path, status)


def check_database(path: Path) -> None:
    """Check a SQLite database and the files that SQLite keeps beside it, as ``check_private`` does."""
    for file in files_of_database(path):
        check_private(file)


def files_of_database(path: Path) -> list[Path]:
    """Return where a SQLite database lies, and what SQLite may keep beside it."""
    return [path.with_name(path.name + suffix) for suffix in ("", *_SIDE_FILES)]


def is_sealed(path: Path) -> bool:
    """Tell whether a database is whole as it lies there, with nothing beside it, where nothing can be made."""
    _file, *beside = files_of_database(path)
    return path.is_file() and not os.access(path.parent, os.W_OK) and not any(file.exists() for file in beside)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "getuid"):
        return
    if status.st_uid != os.getuid():
        raise StorageError(path, f"belongs to user {status.st_uid}, not to user {os.getuid()}, so it is not trusted")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(path, "can be written by others, so it is not trusted; take that right away: chmod go-w")


def create_private(path: Path) -> None:
    """Create an empty file with mode 0600, unless it is there."""
    try:
        create_new(path)
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(path, f"cannot be created: {error.strerror or error}") from error


def read_private(path: Path) -> bytes:
    """Return a file's bytes; its owner and rights are checked on the very file that is read.

    Raises:
        FileNotFoundError: There is none.
        StorageError: It is not ours alone, or cannot be read.
    """
    check_private(path)
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            return file.read()
    except (StorageError, FileNotFoundError):
        raise
    except OSError as error:
        raise StorageError(path, f"cannot be read: {error.strerror or error}") from error


def write_atomically(
    path: Path, content: bytes, *, first: Callable[[], None] | None = None, replace: bool = True
) -> None:
    """Replace a file's content with mode 0600: after a crash at any moment the old or the new content is there.

    A link stays one: what it leads to is replaced. Pipes and devices are written into.

    Args:
        path: The file.
        content: All that it will hold.
        first: Called when the new content is on the disk, just before it takes the old one's place.
        replace: False to leave a file alone that is there, even if it came a moment ago.

    Raises:
        FileExistsError: There is such a file, and ``replace`` is false.
        StorageError: The disk is full, the directory is read-only, …; the old content is untouched.
    """
    temporary = None
    try:
        if path.is_fifo() or path.is_char_device():
            path.write_bytes(content)
            return
        path = path.resolve()
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp gives 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if first is not None:
            first()
        if replace:
            Path(temporary).replace(path)
            temporary = None
        else:
            _link_new(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError(path, f"cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    sync_directory(path.parent)


def _link_new(temporary: str, path: Path) -> None:
    """Give a file its name unless another has it; FileExistsError then. Looking first would leave a gap."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except OSError:  # a file system without links: the name is taken, and then the content replaces it at once
        create_new(path)
        Path(temporary).replace(path)


def create_new(path: Path) -> None:
    """Create an empty file with mode 0600; FileExistsError if there is one."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep out other threads, and other processes where the system can do that, that want the same directory.

    Raises:
        StorageError: It cannot be read, or its file system has no locks.
    """
    with _lock:
        try:
            import fcntl  # noqa: PLC0415
        except ImportError:  # Windows
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise StorageError(directory, f"cannot be locked: {error.strerror or error}") from error
            yield


def is_on_network(directory: Path) -> bool:
    """Tell whether a directory lies on a network file system, where SQLite's shared memory does not work."""
    resolved = directory.resolve()
    kinds = mounted()
    for place in (resolved, *resolved.parents):
        if place in kinds:
            return NETWORK_FILE_SYSTEMS.fullmatch(kinds[place].lower()) is not None
    return False


def mounted() -> dict[Path, str]:
    """Return where file systems are mounted, with their kind."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        import psutil  # noqa: PLC0415 - loading it takes longer than all the rest

        return {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    fields = (line.split() for line in lines)
    return {
        Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), place)): kind for _what, place, kind, *_ in fields
    }
