"""Snapshot files: versions, rotation, and what is left after failures."""

from __future__ import annotations

import os

import pytest

from amorsize_executor.errors import StorageError
from amorsize_executor.storage import place
from amorsize_executor.storage.snapshot import SnapshotFiles


@pytest.fixture
def files(tmp_path):
    """Return the files of one snapshot."""
    return SnapshotFiles(tmp_path, "run_checkpoint", ".pkl")


def decode(content: bytes) -> bytes:
    """Take everything but what says that it is damaged."""
    if content.startswith(b"damaged"):
        raise ValueError(content)
    return content


def contents(files: SnapshotFiles) -> list[bytes]:
    """Return what is there, the newest first."""
    return [files.path(version).read_bytes() for version in files.versions()]


def test_versions_shift_and_the_oldest_go(files):
    """So many older versions are kept beside the newest."""
    for number in range(5):
        files.save(b"%d" % number, keep=2, clean_up=True)
    assert contents(files) == [b"4", b"3", b"2"]
    assert files.load(decode) == b"4"
    assert files.delete() == 3
    assert files.load(decode) is None


def test_keeping_fewer_removes_what_is_too_much(files):
    """Versions left by a longer history go with the next save."""
    for number in range(5):
        files.save(b"%d" % number, keep=4, clean_up=True)
    files.save(b"5", keep=1, clean_up=True)
    assert contents(files) == [b"5", b"4"]


def test_without_cleaning_up_everything_stays(files):
    """Then versions only get older."""
    for number in range(4):
        files.save(b"%d" % number, keep=1, clean_up=False)
    assert contents(files) == [b"3", b"2", b"1", b"0"]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_gap_among_versions_is_filled_first(files, missing):
    """Only versions in the way move."""
    for number in range(4):
        files.save(b"%d" % number, keep=3, clean_up=True)
    files.path(missing).unlink()
    files.save(b"4", keep=3, clean_up=True)
    assert contents(files) == {1: [b"4", b"3", b"1", b"0"], 2: [b"4", b"3", b"2", b"0"]}[missing]


def test_a_damaged_newest_falls_back(files, caplog):
    """The newest version that is whole is taken, with a warning that names the damaged one."""
    files.save(b"old", keep=2, clean_up=True)
    files.save(b"damaged", keep=2, clean_up=True)
    assert files.load(decode) == b"old"
    assert "run_checkpoint.pkl is damaged" in caplog.text


def test_only_damaged_versions_are_an_error(files):
    """Nothing is made up."""
    files.save(b"damaged", keep=2, clean_up=True)
    with pytest.raises(StorageError, match="no older version is whole"):
        files.load(decode)


def test_a_failed_save_changes_nothing(files, monkeypatch):
    """A full disk is met before any version moves."""
    for number in range(3):
        files.save(b"%d" % number, keep=2, clean_up=True)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        files.save(b"3", keep=2, clean_up=True)
    assert contents(files) == [b"2", b"1", b"0"]


def test_without_links_the_newest_is_copied(files, monkeypatch):
    """Some file systems have no second names."""

    def refuse(*_names):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for number in range(4):
        files.save(b"%d" % number, keep=2, clean_up=True)
    assert contents(files) == [b"3", b"2", b"1"]


def test_files_of_others_are_not_read(files, monkeypatch):
    """A version that another user owns stops the load; falling back would hide an attack."""
    files.save(b"mine", keep=2, clean_up=True)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(StorageError, match="belongs to user"):
        files.load(decode)


def test_other_names_are_left_alone(files, tmp_path):
    """Only a stem's own versions count, and are deleted, with what a killed save left."""
    names = ["run_checkpoint_v0.pkl", "run_checkpoint_v1.json", "run2_checkpoint.pkl", "run_checkpoint_vx.pkl"]
    for name in [*names, ".run_checkpoint.pkl.k1ll3d"]:
        place.create_private(tmp_path / name)
    files.save(b"x", keep=2, clean_up=True)
    assert files.versions() == [0]
    assert files.delete() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
