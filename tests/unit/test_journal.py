"""The journal: commits, failures, and files that are not ours."""

from __future__ import annotations

import os
import sqlite3
import threading

import pytest

from amorsize_executor.errors import StorageError
from amorsize_executor.storage import place
from amorsize_executor.storage.journal import Journal, JournalKind

KIND = JournalKind(0x74657374, 1, ("CREATE TABLE things (number INTEGER PRIMARY KEY, content BLOB)",))
INSERT = "INSERT OR REPLACE INTO things VALUES (?, ?)"
NEVER_S = 3600.0


@pytest.fixture
def path(tmp_path):
    """Return where the journal lies."""
    return tmp_path / "store" / "run.sqlite3"


@pytest.fixture
def make(path):
    """Make journals of one file that are closed at the end."""
    made = []

    def make_one(**options) -> Journal:
        made.append(Journal(path, KIND, **options))
        made[-1].open()
        return made[-1]

    yield make_one
    for journal in made:
        journal.close()


def count(journal: Journal) -> int:
    """Return how many rows are committed."""
    return journal.read("SELECT count(*) FROM things")[0][0]


def test_rows_are_committed_when_there_are_enough(make):
    """The writer thread commits when ``commit_every`` rows wait, and not one by one."""
    journal = make(commit_every=3, commit_after_s=NEVER_S)
    committed = threading.Event()
    commit = journal._commit

    def watched(rows):
        commit(rows)
        committed.set()

    journal._commit = watched
    journal.append(INSERT, (1, b"a"))
    journal.append(INSERT, (2, b"b"))
    assert not committed.is_set()
    assert count(journal) == 0
    journal.append(INSERT, (3, b"c"))
    assert committed.wait(30)
    assert count(journal) == 3


def test_rows_are_committed_after_a_time(make):
    """Fewer rows than ``commit_every`` do not wait for ever."""
    journal = make(commit_every=1000, commit_after_s=0.01)
    done = threading.Event()
    commit = journal._commit
    journal._commit = lambda rows: (commit(rows), done.set())
    journal.append(INSERT, (1, b"a"))
    assert done.wait(30)
    assert count(journal) == 1


def test_flush_and_close_commit_everything(make, path):
    """What was appended is there after ``flush``, and after ``close``, which leaves one file."""
    journal = make(commit_every=1000, commit_after_s=NEVER_S)
    journal.append(INSERT, (1, b"a"))
    journal.flush()
    assert count(journal) == 1
    journal.append(INSERT, (2, b"b"))
    journal.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert count(make()) == 2


def test_write_is_all_or_nothing_and_at_once(make):
    """A transaction of this thread is committed on return, or not at all."""
    journal = make()
    journal.write([(INSERT, (1, b"a")), (INSERT, (2, b"b"))])
    with pytest.raises(StorageError):
        journal.write([(INSERT, (3, b"c")), ("INSERT INTO nothing VALUES (1)", ())])
    assert count(journal) == 2


def test_several_writers_share_a_file(make):
    """Journals of one file, as those of several processes, wait for each other's commits."""
    journals = [make() for _ in range(4)]

    def fill(index):
        for number in range(25):
            journals[index].write([(INSERT, (index * 25 + number, b""))])

    threads = [threading.Thread(target=fill, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(journals[0]) == 100


def test_the_file_is_ours_alone(make, path):
    """Database and write-ahead log can be read and written by their owner only."""
    journal = make()
    journal.write([(INSERT, (1, b"a"))])
    assert {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {
        path.name: 0o600,
        f"{path.name}-wal": 0o600,
        f"{path.name}-shm": 0o600,
    }
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_on_a_network_file_system_nothing_is_written_ahead(make, monkeypatch):
    """There, SQLite's older mode is taken, which needs no shared memory."""
    monkeypatch.setattr(place, "is_on_network", lambda _directory: True)
    journal = make()
    assert journal.mode == "delete"
    journal.append(INSERT, (1, b"a"))
    journal.flush()
    assert count(journal) == 1


def test_where_writing_ahead_is_refused_every_commit_waits_for_the_disk(path):
    """SQLite answers with the mode that it has taken, and that is what counts."""
    place.make_directory(path.parent)

    class Refusing:
        asked: list = []  # noqa: RUF012

        def execute(self, statement):
            self.asked.append(statement)
            return self

        def fetchone(self):
            return ("delete",)

    assert Journal(path, KIND)._choose_mode(Refusing()) == "delete"
    assert Refusing.asked == ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"]


def test_a_full_disk_is_told_and_rows_are_kept_until_there_is_room(make, caplog):
    """While commits fail, ``failure`` says why; the rows are written once there is room again."""
    journal = make(commit_every=1, commit_after_s=0.01)
    (pages,) = journal._writer.execute("PRAGMA page_count").fetchone()
    journal._writer.execute(f"PRAGMA max_page_count = {pages}")
    journal.append(INSERT, (1, b"x" * 100_000))
    with pytest.raises(StorageError, match="disk is full"):
        journal.flush()
    assert "disk is full" in journal.failure.problem
    assert count(journal) == 0
    with journal._write_lock:
        journal._writer.execute("PRAGMA max_page_count = 1000000")
    journal.append(INSERT, (2, b"y"))
    journal.flush()
    assert journal.failure is None
    assert count(journal) == 2
    assert len([record for record in caplog.records if "disk is full" in record.message]) == 1


def test_what_cannot_be_written_at_the_end_is_told(make, caplog):
    """``close`` does not hang on a full disk; the log says how many rows are lost."""
    journal = make(commit_every=1, commit_after_s=0.01)
    journal._writer.execute("PRAGMA max_page_count = 1")
    journal.append(INSERT, (1, b"x" * 100_000))
    journal.close()
    assert "1 rows are lost" in caplog.text
    journal.open()
    assert journal.failure is None


UNFIT = {"object": object(), "large": 2**64, "no characters": "\udcff"}


@pytest.mark.parametrize("row", UNFIT.values(), ids=UNFIT)
def test_a_row_that_cannot_be_stored_is_an_error_to_who_waits_for_it(make, row):
    """It is one of the store, whatever SQLite calls it, and leaves no transaction open."""
    journal = make()
    with pytest.raises(StorageError):
        journal.write([(INSERT, (1, b"a")), (INSERT, (2, row))])
    journal.write([(INSERT, (3, b"c"))])
    assert count(journal) == 1


@pytest.mark.parametrize("row", UNFIT.values(), ids=UNFIT)
def test_a_row_that_cannot_be_stored_does_not_hold_up_others(make, caplog, row):
    """What SQLite can never hold is dropped, and told."""
    journal = make(commit_every=2, commit_after_s=NEVER_S)
    journal.append(INSERT, (1, row))
    journal.append(INSERT, (2, b"b"))
    journal.flush()
    assert count(journal) == 1
    assert "cannot be stored" in caplog.text


@pytest.mark.parametrize("content", [b"this is no database at all, but it is long enough to look like one" * 20, b"x"])
def test_a_file_that_is_no_database_is_refused(path, content):
    """The error names the file, and the file is left as it is."""
    place.make_directory(path.parent)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError, match=f"{path.name}: is damaged, or no database"):
        Journal(path, KIND).open()
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused_and_left_alone(path):
    """Another program's tables are none of ours."""
    place.make_directory(path.parent)
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE mine (a)")
    foreign.close()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="something else"):
        Journal(path, KIND).open()
    assert path.read_bytes() == before


def test_another_version_of_the_format_is_refused(make, path):
    """A later package's file is not guessed at."""
    make().close()
    with pytest.raises(StorageError, match="format 1, not 2"):
        Journal(path, JournalKind(KIND.application_id, 2, KIND.schema)).open()


def test_a_damaged_database_is_a_clear_error(make, path):
    """Pages that were overwritten are found when they are read."""
    journal = make()
    journal.write([(INSERT, (number, b"x" * 500)) for number in range(200)])
    journal.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 5)
    journal = Journal(path, KIND)
    with pytest.raises(StorageError, match="damaged"):
        journal.read("SELECT content FROM things")
    journal.close()


@pytest.mark.parametrize("name", [b"number", b"things"])
def test_a_damaged_name_in_the_schema_is_a_clear_error(make, path, name):
    """SQLite quotes it in its message, and that is no text then."""
    make().close()
    content = path.read_bytes()
    path.write_bytes(content.replace(name, b"\x9e" * len(name)))
    journal = Journal(path, KIND)
    with pytest.raises(StorageError):
        journal.read("SELECT number FROM things")
    journal.close()


def test_a_damaged_text_does_not_hide_its_row(make):
    """It is read with a mark in the place of what is no character."""
    journal = make()
    journal.write([("INSERT INTO things VALUES (1, CAST(? AS TEXT))", (b"a\xffb",))])
    assert journal.read("SELECT number, content FROM things") == [(1, "a\ufffdb")]


def test_a_directory_that_cannot_be_written_is_a_clear_error():
    """It names the directory."""
    with pytest.raises(StorageError, match="the directory cannot be used"):
        Journal(place.Path("/proc/self/store/run.sqlite3"), KIND).open()


def test_a_file_that_can_only_be_read_is_a_clear_error(make, path, monkeypatch):
    """SQLite's refusal is passed on in our words."""
    make().close()
    connect = sqlite3.connect

    def read_only(where, **options):
        return connect(f"file:{where}?mode=ro", **{**options, "uri": True})

    monkeypatch.setattr(sqlite3, "connect", read_only)
    journal = Journal(path, KIND)
    with pytest.raises(StorageError, match="cannot be written"):
        journal.write([(INSERT, (1, b"a"))])
    journal.close()


@pytest.fixture
def sealed(make, path, monkeypatch):
    """Return a journal of one row where nothing can be made, as on a read-only mount; root can write anywhere else."""
    journal = make()
    journal.write([(INSERT, (1, b"a"))])
    journal.close()
    path.parent.chmod(0o500)
    monkeypatch.setattr(place.os, "access", lambda where, _mode: where != path.parent)
    connect = sqlite3.connect

    refusal = sqlite3.OperationalError("unable to open database file")

    def refusing(where, **options):
        if "immutable" not in str(where):
            raise refusal
        return connect(where, **options)

    monkeypatch.setattr(sqlite3, "connect", refusing)
    journal = Journal(path, KIND)
    yield journal
    journal.close()
    path.parent.chmod(0o700)


def test_where_nothing_can_be_written_it_can_be_read(sealed):
    """Writing is still a clear error."""
    for _ in range(2):
        assert sealed.read("SELECT * FROM things") == [(1, b"a")]
        with pytest.raises(StorageError, match="cannot be opened"):
            sealed.write([(INSERT, (2, b"b"))])


def test_where_nothing_can_be_written_the_checks_are_the_same(sealed, path):
    """A log beside the file may hold more than the file, a foreign one nothing, and others' files are not trusted."""
    path.chmod(0o620)
    with pytest.raises(StorageError, match="written by others"):
        sealed.read("SELECT * FROM things")
    path.chmod(0o600)
    with pytest.raises(StorageError, match="something else"):
        Journal(path, JournalKind(1, 1, KIND.schema)).read("SELECT * FROM things")
    path.parent.chmod(0o700)
    path.with_name(path.name + "-wal").touch(0o600)
    path.parent.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be opened"):
        sealed.read("SELECT * FROM things")


def test_nothing_is_opened_that_others_can_write(make, path):
    """The check comes before SQLite sees the file."""
    make().close()
    path.chmod(0o666)
    with pytest.raises(StorageError, match="others"):
        Journal(path, KIND).open()


def test_a_closed_journal_takes_no_rows_but_can_be_opened_again(make):
    """``close`` twice is harmless."""
    journal = make()
    journal.close()
    journal.close()
    journal.open()
    journal.append(INSERT, (1, b"a"))
    journal.flush()
    assert count(journal) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_who_waits_for_a_commit_while_it_is_closed_goes_on(make):
    """However late it wakes up."""
    journal = make(commit_after_s=NEVER_S)

    class LateWaking(threading.Condition):
        def wait(self, timeout=None):
            if threading.current_thread() is not threading.main_thread():
                return super().wait(timeout)
            self.release()
            closing = threading.Thread(target=journal.close)
            closing.start()
            closing.join()
            return self.acquire()

    journal._changed = LateWaking()
    journal.append(INSERT, (1, b"a"))
    journal.flush()
    assert count(journal) == 1


def test_a_child_of_a_fork_makes_connections_of_its_own(make):
    """The parent's connection is not touched there, nor closed."""
    journal = make()
    journal.write([(INSERT, (1, b"a"))])
    inherited = journal._writer
    pid = os.fork()
    if not pid:
        try:
            journal.write([(INSERT, (2, b"b"))])
            os._exit(0 if journal._writer is not inherited else 1)
        except BaseException:  # noqa: BLE001
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert count(journal) == 2
