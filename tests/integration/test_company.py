"""Threads that run calls beside a waiting caller, where nobody can tell and the interpreter's lock is let go."""

import hashlib
import mmap
import signal
import threading
import time
import warnings
import zlib

import numpy as np
import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import company, helper
from amorsize_executor.records import Lane
from amorsize_executor.tuning.machine import Machine

BLOCKS = [bytes([number]) * 400_000 for number in range(64)]
DIGESTS = [hashlib.sha256(block).hexdigest() for block in BLOCKS]


def digest(data):
    """Leave no trace, and let go of the interpreter's lock."""
    return hashlib.sha256(data).hexdigest()


def total(array):
    """The same, with an array."""
    return float(array.sum())


def pick(array):
    """Raise for some arrays."""
    return int(np.sum(array)) + 1 // int(array[1])


def sign(number):
    """Call what a global names."""
    return SIGN(number) + zlib.crc32(b"a" * number)


def remembering(number):
    """Leave a trace."""
    SEEN.append(number)
    return number


SIGN, SEEN = abs, []


def company_threads():
    """Return the threads that are there for some caller."""
    return [thread for thread in threading.enumerate() if thread.name == "amorsize-company"]


@pytest.fixture
def callers(monkeypatch):
    """Return a list that tells of each company that came how many shared the calls, the caller among them."""
    found = []

    class Noted(company.Company):
        def __init__(self, *args):
            super().__init__(*args)
            found.append(self.callers)

    monkeypatch.setattr(helper, "Company", Noted)
    return found


@pytest.fixture
def make(monkeypatch, callers):
    """Return how to make an executor whose callers soon have company, on a machine of four cores."""
    del callers
    monkeypatch.setattr(helper, "PATIENCE_S", 0.0)
    monkeypatch.setattr(company, "_LEAST_SHARE", 0.0)

    def executor(**options):
        made = AdaptiveExecutor(**options)
        made._engine.tuner.machine = Machine(4, 4, 1 << 33, 1 << 33)
        return made

    return executor


def test_calls_are_shared(make, callers):
    """By as many threads as there are cores; results come in order, and no thread is left."""
    with make() as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert callers[0] == max(callers) == 4  # where fewer calls are left, fewer come
        first = executor.decisions()[0]
        assert (first.before, first.after) == ("caller", "threads")
        if executor.plan.lane is Lane.THREADS:  # the last call of all may have been run alone, and measured last
            assert executor.plan.workers in callers
        assert executor.stats()["calls_run_by_the_caller"] == len(BLOCKS)
        assert not executor._engine.is_started
        assert "lock" in executor.report()
        assert company_threads() == []


@pytest.mark.parametrize("function", [zlib.crc32, hashlib.md5, lambda block: zlib.compress(block, 1)])
def test_other_functions_that_let_go(make, callers, function):
    """Of the standard library, as they are or in functions of one's own."""
    with make() as executor:
        found = list(executor.map(function, BLOCKS))
    assert callers
    if function is hashlib.md5:
        found, function = [each.digest() for each in found], lambda block: hashlib.md5(block).digest()  # noqa: S324
    assert found == [function(block) for block in BLOCKS]


@pytest.mark.parametrize(
    "arrays",
    [
        [np.full(50_000, number) for number in range(64)],
        [np.ones(50_000)] * 64,
        list(np.arange(64_000.0).reshape(64, 1_000)),
        list(np.arange(64_000.0).reshape(1_000, 64).T),
        [np.frombuffer(mmap.mmap(-1, 80_000), np.uint8)] * 64,
        [np.float64(number) for number in range(64)],
        [np.zeros(()) for _ in range(64)],
    ],
    ids=["their own", "the same", "rows", "columns", "mapped", "scalars", "0-d"],
)
def test_arrays_are_shared(make, callers, arrays):
    """However they lie in memory: what is shared changes none of them."""
    with make() as executor:
        assert list(executor.map(total, arrays)) == [float(array.sum()) for array in arrays]
    assert callers[0] == max(callers) == 4


@pytest.mark.parametrize(
    "options", [{"max_workers": 1}, {"isolate": True}, {"backend": "caller"}, {"backend": "thread"}]
)
def test_calls_are_not_shared_where_the_user_wants_it_otherwise(make, callers, options):
    """Fewer at a time, or another place."""
    with make(**options) as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
    assert callers == []


def add_one(array):
    """Change the argument."""
    array += 1
    return int(array[0])


def root(array):
    """Change the argument, too."""
    return float(np.sqrt(array, array)[0])


@pytest.mark.parametrize("change", [add_one, root, lambda array: array.sort()])
def test_calls_that_change_their_arguments_are_not_shared(make, callers, change):
    """Others may see it."""
    arrays, expected = [np.full(50_000, 16.0) for _ in range(20)], [np.full(50_000, 16.0) for _ in range(20)]
    with make(max_workers=2) as executor:
        assert list(executor.map(change, arrays)) == [change(array) for array in expected]
    assert callers == []


def test_other_calls_are_not_shared(make, callers):
    """Those that keep the lock, those of which code does not tell, arrays of objects, and what nobody has seen yet."""
    objects = [np.array([number, "a"], dtype=object) for number in range(8)]
    with make() as executor:
        assert list(executor.map(lambda number: 7**number % 5, range(1000))) == [7**n % 5 for n in range(1000)]
        assert list(executor.map(lambda block: [digest(block)], BLOCKS)) == [[each] for each in DIGESTS]
        assert list(executor.map(lambda array: array.size, objects)) == [2] * 8
        assert list(executor.imap(digest, iter(BLOCKS))) == DIGESTS
    assert callers == []


def test_errors_stay_with_their_calls(make, callers):
    """Whichever thread has run them."""
    arrays = [np.array([number, number % 5 - 1]) for number in range(40)]
    taken = []
    with make() as executor:
        results = executor.map(pick, arrays)
        while len(taken) < 40:
            try:
                taken.append(next(results))
            except ZeroDivisionError:
                taken.append("error")
    assert callers
    assert taken == ["error" if n % 5 == 1 else n + n % 5 - 1 + 1 // (n % 5 - 1) for n in range(40)]


def test_nothing_is_shared_behind_the_callers_back(make, monkeypatch, callers):
    """Between two results nobody works: what the caller sets for a moment, such as filters of warnings, is its own."""
    monkeypatch.setattr(helper, "_SLICE_S", 0.0)
    seen = 0
    warnings.simplefilter("ignore")
    with make() as executor:
        for result in executor.map(lambda array: np.log(array).sum(), [np.full(30_000, -1.0) for _ in range(60)]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert company_threads() == []
            assert np.isnan(result)
            seen += 1
    assert seen == 60
    assert callers


def test_errors_of_numpy_are_the_callers_business(make, callers):
    """Where it treats them in another way than new threads would, it has no company."""
    arrays = [np.full(30_000, 0.0) for _ in range(40)]
    with make() as executor:
        with np.errstate(all="raise"):
            results = executor.map(lambda array: np.log(array).sum(), arrays)
            with pytest.raises(FloatingPointError):
                next(results)
            assert callers == []
        with np.errstate(all="ignore"):
            assert [float(each) for each in results] == [float("-inf")] * 39
        assert callers == []


def test_those_that_stand_in_line_for_the_lock_go(make, callers, monkeypatch):
    """They are of no use, and are not asked again for that function."""
    monkeypatch.setattr(company, "_LEAST_SHARE", 1e9)
    monkeypatch.setattr(company, "_TRIAL_S", 0.0)
    with make() as executor:
        function = executor._engine.functions.register(digest, snapshot=False)
        while function.overlaps is not False:  # until one of them has had a call to be judged by
            assert list(executor.map(digest, BLOCKS)) == DIGESTS
        before = len(callers)
        assert before >= 1
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert len(callers) == before


def test_those_that_proved_useful_come_at_once(make, callers, monkeypatch):
    """The next map of the same function does not wait until it has taken long."""
    with make() as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        before = len(callers)
        executor._engine.functions.register(digest, snapshot=False).overlaps = True
        monkeypatch.setattr(helper, "PATIENCE_S", 0.001)
        run_batch, begun_alone = helper.Helper._run_batch, []

        def noted(self, stream):
            begun_alone.append(stream.company is None)
            return run_batch(self, stream)

        monkeypatch.setattr(helper.Helper, "_run_batch", noted)
        assert next(executor.map(digest, BLOCKS)) == DIGESTS[0]
        assert len(callers) == before + 1
        assert not any(begun_alone)


def test_nobody_works_for_results_that_nobody_wants(make):
    """Behind a closed iterator, a dropped one, or a shutdown."""
    with make() as executor:
        results = executor.map(digest, BLOCKS * 20)
        assert next(results) == DIGESTS[0]
        results.close()
        others = executor.map(digest, BLOCKS * 20)
        assert next(others) == DIGESTS[0]
        assert company_threads() == []
    assert company_threads() == []  # and nobody else runs anything where no dispatcher was started
    assert not executor._engine.is_started
    assert list(others) == (DIGESTS * 20)[1:]  # its caller runs them, as ever


def test_where_there_is_no_room_for_threads(make, callers, monkeypatch):
    """The caller runs its calls alone."""

    def refuse(_thread):
        message = "can't start new thread"
        raise RuntimeError(message)

    with make() as executor:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert callers


def test_ctrl_c_lets_nobody_behind(make, monkeypatch):
    """The caller hears of it when all have ended the calls that they are in."""
    real, interrupts = helper.Helper._run_batch, []

    def interrupted(self, stream):
        if stream.company is not None and not interrupts:
            interrupts.append(True)
            raise KeyboardInterrupt
        return real(self, stream)

    monkeypatch.setattr(helper.Helper, "_run_batch", interrupted)
    with make() as executor:
        results = executor.map(digest, BLOCKS * 20)
        with pytest.raises(KeyboardInterrupt):
            list(results)
        assert company_threads() == []
        assert list(executor.map(digest, BLOCKS)) == DIGESTS


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no signals here")
def test_a_shutdown_in_a_signal_handler(make, monkeypatch):
    """It does not wait for threads that need what the interrupted caller holds."""
    executor = make()
    helps, lock = executor._engine.helper, executor._engine.lock
    pick, interrupted = helps.pick, []

    def interrupt(stream):
        is_caller = threading.current_thread() is threading.main_thread()
        if is_caller and not interrupted and company_threads():
            assert lock.locked()
            interrupted.append(True)
            time.sleep(0.02)  # they stand in line for the lock
            signal.raise_signal(signal.SIGUSR1)
        return pick(stream)

    monkeypatch.setattr(helps, "pick", interrupt)
    before = signal.signal(signal.SIGUSR1, lambda *_: executor.shutdown())
    try:
        assert list(executor.map(digest, BLOCKS * 4)) == DIGESTS * 4
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interrupted
    assert company_threads() == []


@pytest.mark.parametrize("name", ["amorsize-company", "MainThread"])
def test_one_that_fails_loses_no_call(make, monkeypatch, caplog, name):
    """The dispatcher, started for it, finishes its books."""
    with make() as executor:
        note_helped = executor._engine.note_helped

        def fail(*args):
            if threading.current_thread().name == name:
                monkeypatch.setattr(executor._engine, "note_helped", note_helped)
                raise MemoryError
            note_helped(*args)

        monkeypatch.setattr(executor._engine, "note_helped", fail)
        results, taken, failures = executor.map(digest, BLOCKS), [], 0
        while len(taken) < len(BLOCKS):
            try:
                taken.append(next(results))
            except MemoryError:
                failures += 1
        assert taken == DIGESTS
    assert failures == (name == "MainThread")
    assert ("company failed" in caplog.text) == (not failures)


def test_what_a_name_means_is_looked_up_for_each_map(make, callers, monkeypatch):
    """A function that has left no trace may leave some now."""
    numbers = range(20_000, 20_100)
    with make() as executor:
        assert list(executor.map(sign, numbers)) == [sign(number) for number in numbers]
        assert callers[0] == max(callers) == 4
        callers.clear()
        monkeypatch.setitem(globals(), "SIGN", remembering)
        assert len(list(executor.map(sign, numbers))) == len(numbers)
        assert callers == []
        assert executor._engine.is_started


def test_nothing_is_started_for_no_calls(make):
    """Of a map that has no more to run, nobody asks whether workers would do that faster."""
    with make() as executor:
        results = executor.map(abs, [1])
        assert list(results) == [1]
        executor._engine.reconsider(results._stream)
        assert not executor._engine.is_started


def test_many_maps_at_once(make):
    """Of several consumers, each with company of its own."""
    with make() as executor:
        results = {}

        def consume(number):
            results[number] = list(executor.map(digest, BLOCKS[number:]))

        threads = [threading.Thread(target=consume, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {number: DIGESTS[number:] for number in range(5)}


def test_workers_and_company_share_a_map(make):
    """Where the executor was started for something else, workers take what waits; no call is lost or run twice."""
    with make() as executor:
        assert executor.submit(time.sleep, 0).result() is None
        for _ in range(5):
            assert list(executor.map(digest, BLOCKS * 2)) == DIGESTS * 2
        assert executor.stats()["calls_done"] == 1 + 10 * len(BLOCKS)
