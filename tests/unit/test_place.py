"""Names, directories and files that may be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from amorsize_executor import StorageError
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.storage import place

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and rights are POSIX's")


@pytest.mark.parametrize("name", ["run", "run-1", "run 1", "a.b", "a_checkpoint_v1", "é", "_x", "1"])
def test_plain_file_names_are_good(name):
    """Letters, digits and a few signs make a name."""
    assert place.check_name("name", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../run", "a/b", "a\\b", "/run", "C:run", ".hidden", "a\0b", "a\nb", "a.", "a ", "x" * 121, "~"],
)
def test_names_that_could_leave_the_directory_are_refused(name):
    """What is no plain file name is an error that names it."""
    with pytest.raises(InvalidParameterError, match="name="):
        place.check_name("name", name)


def test_a_name_is_text():
    """Anything else is a TypeError."""
    with pytest.raises(InvalidParameterTypeError):
        place.check_name("name", 7)


def test_directories_and_files_are_ours_alone(tmp_path):
    """Missing directories are made with mode 0700 all the way down, files with 0600, whatever the umask."""
    before = os.umask(0)
    try:
        place.make_directory(tmp_path / "a" / "b")
        place.create_private(tmp_path / "a" / "b" / "file")
        place.write_atomically(tmp_path / "a" / "b" / "other", b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / part).stat().st_mode) for part in ("a", "a/b", "a/b/file", "a/b/other")]
    assert modes == [0o700, 0o700, 0o600, 0o600]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_refused(tmp_path, mode):
    """A file or directory that group or others can write is not trusted, and the error says how to mend it."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(StorageError, match="chmod go-w"):
        place.read_private(path)
    path.chmod(0o644)
    assert place.read_private(path) == b"x"
    directory = tmp_path / "directory"
    directory.mkdir()
    directory.chmod(mode | 0o100)
    with pytest.raises(StorageError, match="chmod go-w"):
        place.make_directory(directory)


def test_what_another_user_owns_is_refused(tmp_path, monkeypatch):
    """Neither file nor directory of another user is trusted, not even by root."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(StorageError, match="belongs to user"):
        place.read_private(path)
    with pytest.raises(StorageError, match="belongs to user"):
        place.make_directory(tmp_path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_what_sqlite_keeps_beside_a_database_is_looked_at_too(tmp_path, suffix):
    """SQLite would read a planted write-ahead log as part of the database."""
    path = tmp_path / f"run.sqlite3{suffix}"
    path.write_bytes(b"")
    path.chmod(0o666)
    with pytest.raises(StorageError, match="others"):
        place.check_database(tmp_path / "run.sqlite3")


def test_links_and_directories_are_no_files(tmp_path):
    """A symbolic link could lead anywhere."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory"):
        with pytest.raises(StorageError, match="not a plain file"):
            place.read_private(tmp_path / name)


def test_a_file_is_no_directory(tmp_path):
    """A directory that cannot be made is an error that names it."""
    (tmp_path / "file").write_bytes(b"x")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/self/below")):
        with pytest.raises(StorageError, match="director"):
            place.make_directory(wrong)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    """A full disk in the middle of a write hurts nobody."""
    path = tmp_path / "file"
    place.write_atomically(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        place.write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("kind", "expected"), [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False)])
def test_network_file_systems_are_known_by_the_innermost_mount(tmp_path, monkeypatch, kind, expected):
    """The mount that holds the directory decides, not one above it."""
    mounts = {Path("/"): "ext4" if expected else "nfs", tmp_path.resolve(): kind}
    monkeypatch.setattr(place, "mounted", lambda: mounts)
    assert place.is_on_network(tmp_path / "below") is expected


def test_mounts_are_read_from_the_kernel_or_asked_of_psutil(monkeypatch):
    """Names with blanks are escaped there; where there is no such file, psutil knows."""
    text = "none /a\\040b nfs4 rw 0 0\nroot / ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda _path, **_options: text)
    assert place.mounted() == {Path("/a b"): "nfs4", Path("/"): "ext4"}

    def refuse(path, **_options):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    part = SimpleNamespace(mountpoint="/c", fstype="apfs")
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_options: [part])
    assert place.mounted() == {Path("/c"): "apfs"}


def test_a_link_stays_one(tmp_path):
    """Its target is replaced; a link that is not to be overwritten is there already."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    place.write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        place.write_atomically(link, b"newer", replace=False)


def test_a_pipe_stays_one(tmp_path):
    """No file takes its place; what is written comes out at its other end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        place.write_atomically(pipe, b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
