"""Large buffers on their way to workers and back: what arrives is what was sent, and stays so."""

from __future__ import annotations

import array
import gc
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading

import numpy as np
import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.backends import pipe_link
from amorsize_executor.wire.segments import USED, SegmentMap
from tests.conftest import HAS_PROC
from tests.processes import poll_until
from tests.segments import segments_mapped, segments_open

NUMBERS = 60_000  # of 8 bytes: enough for a segment
KEPT: list = []

pytestmark = pytest.mark.timeout(120, method="signal")  # the other method keeps a thread per test, and some fork
linux_only = pytest.mark.skipif(sys.platform != "linux" or not HAS_PROC, reason="looks at memfds through /proc")


@pytest.fixture(params=["", "memfd", "zygote"])
def executor(request, monkeypatch):
    """Return an executor with one worker, as Linux has it, without segments, and without the zygote."""
    monkeypatch.setenv("AMORSIZE_WITHOUT", request.param)
    with AdaptiveExecutor(1, isolate=True) as executor:
        yield executor


@pytest.fixture
def isolated():
    """Return an executor with one worker."""
    with AdaptiveExecutor(1, isolate=True) as executor:
        yield executor


def numbered(number, count=NUMBERS):
    """Return an array that tells which it is, everywhere."""
    return np.arange(number, number + count, dtype=np.float64)


def give_back(item):
    """Return the argument."""
    return item


def describe(item):
    """Tell what came: type, content, and whether it can be written to."""
    view = memoryview(item)
    return type(item), view.tobytes(), view.readonly


def double(item):
    """Double an array where it is; it has to be writable."""
    item *= 2
    return item


def keep(item):
    """Keep the argument for good, and return the sums of all that are kept."""
    KEPT.append(item)
    return [float(each.sum()) for each in KEPT]


def look_at_worker(_item):
    """Return how many segments this process has mapped, and how many descriptors of any it has."""
    return segments_mapped(), segments_open()


class Part(np.ndarray):
    """A subclass that pickles as arrays do."""


class Unreadable:
    """Carries an array, and does not unpickle."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return refuse, (self.content,)


def refuse(_content):
    """Fail."""
    raise LookupError


def read_only(item):
    """Make an array read-only."""
    item.setflags(write=False)
    return item


# --- What arrives -----------------------------------------------------------------------------------------------

ARRAYS = {
    "plain": lambda: numbered(1),
    "read-only": lambda: read_only(numbered(2)),
    "by columns": lambda: np.asfortranarray(numbered(3).reshape(300, 200)),
    "every other": lambda: numbered(4, 2 * NUMBERS)[::2],
    "backwards": lambda: numbered(5)[::-1],
    "transposed": lambda: numbered(6).reshape(100, 20, 30).transpose(1, 0, 2),
    "nothing": lambda: np.empty((0, 7)),
    "one number": lambda: np.float64(3.5),
    "records": lambda: np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]),
    "texts": lambda: np.array(["some text"] * 20_000),
    "objects": lambda: np.array([{"a": numbered(7)}, None, "x"], dtype=object),
    "a subclass": lambda: numbered(8).view(Part),
    "a window": lambda: np.lib.stride_tricks.sliding_window_view(numbered(9, 1000), 900),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind(executor, kind):
    """They come back equal, of their type and writable as they were, and again once all is warm."""
    sent = ARRAYS[kind]()
    for _ in range(3):
        back = executor.submit(give_back, sent).result()
        assert type(back) is type(sent)
        assert pickle.dumps(back) == pickle.dumps(pickle.loads(pickle.dumps(sent)))
        if isinstance(sent, np.ndarray):
            assert back.flags.writeable or not sent.flags.writeable


@pytest.mark.parametrize("size", [0, 1, 300_000, 1_000_000])
@pytest.mark.parametrize("make", [bytes, bytearray, lambda data: array.array("B", data), pickle.PickleBuffer])
def test_other_buffers(executor, make, size):
    """Whatever has a buffer arrives with its content; standard types as what they were."""
    data = bytearray(os.urandom(size))
    for _ in range(3):
        kind, content, is_readonly = executor.submit(describe, make(data)).result()
        assert content == data
        if make is bytes:
            assert (kind, is_readonly) == (bytes, True)
        elif make is not pickle.PickleBuffer:
            assert (kind, is_readonly) == (type(make(b"")), False)
        else:
            assert not is_readonly


def test_a_thousand_arrays_in_one_argument(executor):
    """More than there are segments, of sizes on both sides of every bound."""
    sent = [numbered(number, random.Random(number).choice([1, 3_000, 40_000])) for number in range(1000)]
    back = executor.submit(give_back, sent).result()
    assert all(np.array_equal(one, other) for one, other in zip(sent, back))
    assert len(back) == len(sent)


def test_a_hundred_megabytes(executor):
    """Large ones too, both ways, more than once."""
    sent = np.arange(12_500_000, dtype=np.float64)
    for _ in range(3):
        assert np.array_equal(executor.submit(give_back, sent).result(), sent)


def test_many_calls_in_one_chunk(monkeypatch):
    """Buffers inside and outside the frame, far more than the socket takes at once, each come to their call."""
    sizes = [100, 5_000, 20_000, 40_000, 90_000]
    items = [numbered(number, sizes[number % 5]) for number in range(150)]
    with AdaptiveExecutor(2, isolate=True, chunksize=50) as executor:
        for _ in range(3):
            for sent, back in zip(items, executor.map(give_back, items)):
                assert np.array_equal(sent, back)


SMALL = [
    *(f"{number:06}" * 2_000 for number in range(60)),
    *(bytes([number]) * 15_000 for number in range(60)),
    *({"number": number, "text": "x" * 10_000} for number in range(60)),
    *(numbered(number, 4_000) for number in range(60)),
]
"""None is large, but all of them are: plain ones, others, and with buffers of their own."""


def write_to(item):
    """Return the argument; arrays are written to before."""
    return double(item) if isinstance(item, np.ndarray) else item


def test_many_small_ones_travel_in_segments_too(executor):
    """What a chunk weighs counts, not what each call does; they come as they went, and can be written to."""
    wanted = [2 * item if isinstance(item, np.ndarray) else item for item in SMALL]
    for chunksize in (60, 240, 17):
        found = list(executor.map(write_to, SMALL, chunksize=chunksize))
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted))
        assert len(found) == len(SMALL)
        found[-1][0] += 1


@linux_only
def test_a_large_chunk_leaves_the_socket_to_others():
    """Its frame says where it is; so do those of what comes back. Segments are used again."""
    texts = [f"{number:10}" * 1_000 for number in range(1_000)]
    with AdaptiveExecutor(1, isolate=True, chunksize=100) as executor:
        assert list(executor.map(give_back, texts)) == texts
        (worker,) = executor._engine.workers.values()
        assert 6 <= worker.link._pool.uses <= 9  # the first ones make segments known
        assert worker.link._map.opened >= 6
        assert len(worker.link._pool) <= 4
        assert worker.link._map.live == 0


def lose(self, slot, capacity, descriptors):
    """Have no room for another descriptor."""
    os.close(descriptors.popleft())


@linux_only
def test_no_chunk_gets_lost(monkeypatch):
    """Who has no room for segments, worker or caller, gets all through the socket."""
    monkeypatch.setattr(SegmentMap, "_enter", lose)
    context = multiprocessing.get_context("fork")  # so that the worker has no room either
    with AdaptiveExecutor(1, mp_context=context, chunksize=50) as executor:
        for _ in range(3):
            assert list(executor.map(write_to, SMALL[:180])) == SMALL[:180]
        (worker,) = executor._engine.workers.values()
        assert worker.link._pool.uses == worker.link._map.opened == 0


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_other_contexts(method):
    """Workers that multiprocessing starts get their buffers the same way."""
    with AdaptiveExecutor(2, mp_context=multiprocessing.get_context(method), chunksize=5) as executor:
        for _ in range(2):
            for number, back in enumerate(executor.map(double, [numbered(number) for number in range(30)])):
                assert np.array_equal(back, 2 * numbered(number))


# --- What stays -------------------------------------------------------------------------------------------------


def test_arguments_that_a_worker_keeps(executor):
    """Later calls overwrite nothing that an earlier one has put away."""
    sums = [float(numbered(number).sum()) for number in range(20)]
    for number in range(20):
        assert executor.submit(keep, numbered(number)).result() == sums[: number + 1]


def test_results_that_the_caller_keeps(executor):
    """They stay as they are, are the caller's own to write to, and outlive the executor."""
    results = [executor.submit(give_back, numbered(number)).result() for number in range(20)]
    results[3][:] = -1
    later = [executor.submit(give_back, numbered(number)).result() for number in range(20, 30)]
    executor.shutdown()
    assert (results[3] == -1).all()
    for number, result in enumerate(results + later):
        assert number == 3 or np.array_equal(result, numbered(number))
    later[0][:] = 5
    assert np.array_equal(later[1], numbered(21))


def test_the_callers_array_is_not_the_workers(executor):
    """What a worker does to its argument, the caller does not see, nor the other way round."""
    sent = numbered(1)
    for _ in range(4):
        assert np.array_equal(executor.submit(double, sent).result(), 2 * numbered(1))
        assert np.array_equal(sent, numbered(1))


def double_in_a_child(item):
    """Let a forked child double the argument; return what this process sees of it."""
    pid = os.fork()
    if pid == 0:
        item *= 2
        os._exit(0)
    os.waitpid(pid, 0)
    return item


def test_a_call_that_forks(executor):
    """A child of a worker writes to its own copy."""
    for number in range(10):
        assert np.array_equal(executor.submit(double_in_a_child, numbered(number)).result(), numbered(number))


def test_a_caller_that_forks(isolated):
    """A child of the caller has its own copy of results, whatever becomes of the caller's."""
    result = isolated.submit(give_back, numbered(1)).result()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ours, 1)
        is_right = np.array_equal(result, numbered(1))
        result[:] = 7
        os._exit(0 if is_right else 3)
    result[:] = 0
    del result
    for number in range(10):
        assert np.array_equal(isolated.submit(give_back, numbered(number)).result(), numbered(number))
    os.write(theirs, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(ours)
    os.close(theirs)


# --- What fails -------------------------------------------------------------------------------------------------


@linux_only
def test_what_does_not_unpickle_gives_its_segments_back(isolated):
    """Neither arguments nor results that fail hold on to anything."""
    for number in range(60):
        with pytest.raises(LookupError):
            isolated.submit(give_back, Unreadable(numbered(number))).result()
        with pytest.raises(LookupError):
            isolated.submit(Unreadable, numbered(number)).result()
    assert np.array_equal(isolated.submit(give_back, numbered(1)).result(), numbered(1))
    gc.collect()  # errors know the frames that raised them, which know the buffers
    isolated.submit(gc.collect).result()
    (worker,) = isolated._engine.workers.values()
    assert worker.link._map.live == 0
    assert USED not in bytes(worker.link._pool._flags)


def die_once(folder, number, item):
    """Kill this process the first time that it sees a number; then double."""
    try:
        os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 2 * item
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_calls_that_kill_their_workers_once(tmp_path):
    """Each call takes a worker with it once, arrays in hand; every result is right all the same."""
    with AdaptiveExecutor(2, isolate=True, chunksize=4) as executor:
        calls = range(24)
        results = executor.map(die_once, [tmp_path] * 24, calls, [numbered(number) for number in calls])
        for number, result in zip(calls, results):
            assert np.array_equal(result, 2 * numbered(number))


def test_workers_killed_while_arrays_travel():
    """At any moment, from outside: results are right, and nothing is left behind."""
    done = threading.Event()
    with AdaptiveExecutor(2, isolate=True, worker_death_retries=1000, chunksize=3) as executor:

        def kill_now_and_then():
            chance = random.Random(5)
            for _ in range(30):
                if done.wait(chance.random() * 0.02):
                    return
                for process in list(executor._engine.backend.processes().values())[:1]:
                    process.kill()

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            kept = []
            for turn in range(10):
                items = [numbered(turn + number) for number in range(20)]
                for number, result in enumerate(executor.map(double, items)):
                    assert np.array_equal(result, 2 * numbered(turn + number))
                    kept.append((turn + number, result))
        finally:
            done.set()
            killer.join()
    for number, result in kept:
        assert np.array_equal(result, 2 * numbered(number))


# --- What it takes ----------------------------------------------------------------------------------------------


@linux_only
def test_segments_are_used_again(isolated, monkeypatch):
    """A hundred arrays each way take a few segments, made at the beginning, and nothing is left at the end."""
    made = []
    original = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda *args: made.append(args) or original(*args))
    for number in range(100):
        assert isolated.submit(give_back, numbered(number)).result()[0] == number
    arguments = [args for args in made if args[0] == "amorsize-buffer"]
    assert 1 <= len(arguments) <= 2
    assert segments_mapped() <= 6
    isolated.shutdown()
    gc.collect()
    assert (segments_open(), segments_mapped()) == (0, 0)


@linux_only
def test_segments_go_when_nobody_uses_them(monkeypatch):
    """After a while without buffers both sides give the memory back; later ones travel as before."""
    monkeypatch.setattr(pipe_link, "TRIM_S", 3600)  # looks twice when it is told to
    with AdaptiveExecutor(1, isolate=True) as executor:
        for number in range(3):
            kept = executor.submit(give_back, numbered(number)).result()
            assert np.array_equal(kept, numbered(number))
        del kept
        gc.collect()
        (worker,) = executor._engine.workers.values()
        executor._engine.call_soon(worker.link._trim)
        executor._engine.call_soon(worker.link._trim)
        assert poll_until(lambda: (segments_open(), segments_mapped()) == (0, 0), 60)
        assert executor.submit(look_at_worker, None).result() == (0, 0)
        assert np.array_equal(executor.submit(give_back, numbered(9)).result(), numbered(9))


@linux_only
def test_switched_off_there_are_none(monkeypatch):
    """Without memfd everything goes through the socket."""
    monkeypatch.setenv("AMORSIZE_WITHOUT", "memfd")
    with AdaptiveExecutor(1, isolate=True) as executor:
        result = executor.submit(give_back, numbered(1)).result()
        assert np.array_equal(result, numbered(1))
        assert segments_mapped() == 0
        assert executor.submit(look_at_worker, None).result() == (0, 0)
