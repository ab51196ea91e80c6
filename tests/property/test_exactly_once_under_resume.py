"""Whatever is finished, lost and resumed, in whatever order: values are right, and nothing committed runs again."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amorsize_executor import CheckpointMismatchError, CheckpointPolicy
from amorsize_executor.middleware.base import Answered, Call, Outcome
from amorsize_executor.middleware.checkpoint import Checkpoint

MAPS = st.integers(0, 1)
POSITIONS = st.integers(0, 7)


def work(item: int) -> tuple[int, str]:
    """Return something that shows what it was computed from."""
    return item, f"result of {item}"


def item_of(batch: int, position: int) -> int:
    """Return a map's item; the two maps have data of their own."""
    return 100 * batch + position


class ResumedRun(RuleBasedStateMachine):
    """A program that runs two maps, is killed at any moment, and starts again."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.lives = 0
        self.layer: Checkpoint | None = None
        self.committed: set[tuple[int, int]] = set()
        self.appended: set[tuple[int, int]] = set()
        self.in_flight: dict[tuple[int, int], Call] = {}
        self.start(self.root / "0")

    def start(self, directory: Path) -> None:
        """Begin a life of the program."""
        policy = CheckpointPolicy(directory, checkpoint_interval=10_000, checkpoint_name="run")
        self.layer = Checkpoint(policy)
        self.layer._journal._commit_after_s = 3600.0  # it commits when the machine says so
        self.layer.open()
        self.in_flight.clear()
        self.appended.clear()

    def teardown(self) -> None:
        self.layer.close()
        shutil.rmtree(self.root)

    @rule(batch=MAPS, position=POSITIONS)
    def ask(self, batch, position):
        """A call is admitted: it runs exactly if its result was not committed before this life."""
        place = batch, position
        if place in self.in_flight:
            return
        call = Call(work, (item_of(*place),), {}, position, batch=batch)
        answer = self.layer.admit(call)
        if isinstance(answer, Answered):
            assert place in self.committed
            assert answer.outcome == Outcome(work(item_of(*place)))
        else:
            assert place not in self.committed - self.appended  # a map that began without results is not looked up
            self.in_flight[place] = call

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), how=st.sampled_from(["value", "error", "retract"]))
    def end(self, data, how):
        """A call ends: with its value, with an error, or without an outcome."""
        place = data.draw(st.sampled_from(sorted(self.in_flight)))
        call = self.in_flight.pop(place)
        if how == "retract":
            self.layer.retract(call, "worker died")
            return
        outcome = Outcome(call.function(*call.args)) if how == "value" else Outcome(error=ValueError("x"))
        self.layer.settle(call, outcome)
        if how == "value":
            self.appended.add(place)

    @rule()
    def commit(self):
        """The writer thread has committed what there was."""
        self.layer._journal.flush()
        self.committed |= self.appended

    @rule()
    def crash(self):
        """All is lost that is not in the files: the next life sees a copy of them as they are now."""
        self.lives += 1
        copy = self.root / str(self.lives)
        shutil.copytree(self.layer.policy.checkpoint_dir, copy)
        copy.chmod(0o700)
        self.layer.close()
        self.start(copy)

    @rule()
    def end_well(self):
        """The program ends as it should: everything is committed."""
        self.layer.close()
        self.committed |= self.appended
        self.start(Path(self.layer.policy.checkpoint_dir))

    @rule(batch=MAPS, position=POSITIONS)
    def ask_with_other_data(self, batch, position):
        """A result is never given to a call with other arguments."""
        if (batch, position) in self.in_flight:
            return
        call = Call(work, (-1,), {}, position, batch=batch)
        try:
            answer = self.layer.admit(call)
        except CheckpointMismatchError:
            assert (batch, position) in self.committed
        else:
            assert not isinstance(answer, Answered)
            self.layer.retract(call, "cancelled")

    @invariant()
    def the_journal_can_be_read(self):
        """At every moment, and it holds what was committed."""
        path = Path(self.layer.policy.checkpoint_dir) / "run.sqlite3"
        reader = sqlite3.connect(path)
        try:
            (count,) = reader.execute("SELECT count(*) FROM results").fetchone()
        finally:
            reader.close()
        assert count >= len(self.committed)


TestResumedRun = ResumedRun.TestCase
TestResumedRun.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
