"""``process_in_batches``: bounded memory, one executor, results in order."""

import inspect
import itertools
import math
import os
import sys
import threading
import time
import weakref

import pytest

from amorsize_executor import RetryPolicy, estimate_safe_batch_size, optimize, process_in_batches
from amorsize_executor.advice import batch
from amorsize_executor.advice.batch import BatchSize
from amorsize_executor.tuning.machine import Machine
from tests.payloads import big_result, getpid, identity, square

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def memory(monkeypatch):
    """Pretend that so many bytes are available."""

    def available(nbytes):
        monkeypatch.setattr(batch, "probe_machine", lambda: Machine(2, 2, nbytes, nbytes))

    return available


class Item:
    """An object whose life can be watched."""

    def __init__(self, number):
        self.number = number


@pytest.mark.parametrize("size", [1, 3, 5, 10, 100])
@pytest.mark.parametrize("shape", [list, iter, lambda items: items])
def test_all_results_in_order(size, shape):
    """Exact, uneven, one-item and oversized batches."""
    assert process_in_batches(square, shape(range(10)), size) == [number * number for number in range(10)]


def test_a_batch_whose_results_grow_is_handed_out_in_parts(memory):
    """What was measured before stands for no more; what is there never takes much more than it may."""
    memory(10 * MIB)
    sizes = [10] * 5 + [MIB] * 40
    parts = []
    process_in_batches(big_result, sizes, sample_size=5, max_memory_percent=0.5, on_batch=parts.append)
    assert [len(result) for part in parts for result in part] == sizes
    assert max(sum(map(len, part)) for part in parts) <= 6 * MIB
    assert all(parts)


@pytest.mark.parametrize("data", [[], iter(())])
def test_no_items(data):
    """Empty data is an empty list, and no batch is handed out."""
    handed = []
    assert process_in_batches(square, data, on_batch=handed.append) == []
    assert handed == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 2.0),
        ("batch_size", True),
        ("batch_size", 10**30),
        ("max_memory_percent", 0),
        ("max_memory_percent", 1.1),
        ("max_memory_percent", "half"),
        ("max_memory_percent", math.nan),
        ("max_memory_percent", True),
        ("sample_size", 0),
        ("sample_size", 1.5),
        ("verbose", 1),
        ("on_batch", 1),
        ("on_error", "ignore"),
        ("prefer_threads_for_io", 1),
        ("func", 5),
        ("data", None),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_runs(name, value):
    """Each is a ValueError."""
    seen = []
    given = {"func": seen.append, "data": [1], name: value}
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        process_in_batches(**given)
    assert seen == []


def test_unknown_keywords_are_type_errors():
    """Those of ``optimize`` are known, those of the executor are its options."""
    with pytest.raises(TypeError, match="no_such_option"):
        process_in_batches(square, [1], no_such_option=1)
    assert process_in_batches(square, [2], 1, profile=True, target_chunk_duration=0.1, max_workers=1) == [4]


def test_every_keyword_of_optimize_is_known():
    """What a program passed on to ``optimize`` does not make its batches fail."""
    names = inspect.signature(optimize).parameters.items()
    keywords = {name: parameter.default for name, parameter in names if parameter.default is not parameter.empty}
    assert process_in_batches(square, [2], 1, **keywords) == [4]


def test_items_are_pulled_batch_by_batch():
    """When a batch is handed out, nothing of the next one was pulled."""
    pulled, seen = [], []

    def source():
        for number in range(10):
            pulled.append(number)
            yield number

    process_in_batches(square, source(), 4, on_batch=lambda results: seen.append((len(results), len(pulled))))
    assert seen == [(4, 4), (4, 8), (2, 10)]


def test_no_more_than_a_batch_is_alive():
    """Items and results of earlier batches are gone when the next one is pulled."""
    alive = []

    def source():
        for number in range(20):
            assert sum(reference() is not None for reference in alive) <= 5
            item = Item(number)
            alive.append(weakref.ref(item))
            yield item
            del item

    handed = []
    process_in_batches(identity, source(), 5, on_batch=lambda items: handed.append([item.number for item in items]))
    assert list(itertools.chain(*handed)) == list(range(20))


def test_one_executor_serves_all_batches():
    """Workers stay from batch to batch."""
    handed = []
    process_in_batches(getpid, range(12), 4, on_batch=handed.append, isolate=True, max_workers=1)
    assert len(handed) == 3
    assert len(set(itertools.chain(*handed))) == 1


def test_the_first_batch_is_small_and_the_next_fit(memory):
    """Results of a mebibyte in 20 available, half of them for a batch: ten at a time."""
    memory(20 * MIB)
    sizes = []
    process_in_batches(big_result, [MIB] * 40, sample_size=2, on_batch=lambda results: sizes.append(len(results)))
    assert sizes[0] == 2
    assert set(sizes[1:-1]) <= {9, 10}
    assert sum(sizes) == 40


def test_sizes_are_corrected_on_the_way(memory):
    """Heavier results shrink the next batch at once; light ones let it grow by and by."""
    memory(1000)
    size = BatchSize(None, 0.5, 4)
    size.learn([bytes(9)] * 4)
    assert 5 <= size.items <= 32
    size.learn([bytes(234)] * 4)
    assert size.items == 2
    size.learn([bytes(84)] * 2)
    assert 2 <= size.items <= 4
    size.learn([bytes(5000)])
    assert size.items == 1
    fixed = BatchSize(7, 0.5, 4)
    fixed.learn([bytes(5000)])
    assert fixed.items == 7


def test_items_weigh_too(memory):
    """Large items with small results make small batches."""
    memory(20 * MIB)
    sizes = []
    items = (bytes(MIB) for _ in range(30))
    process_in_batches(len, items, sample_size=2, on_batch=lambda results: sizes.append(len(results)))
    assert max(sizes) <= 10
    assert sum(sizes) == 30


def test_a_function_that_cannot_travel_runs_here():
    """As with ``execute``; only options that need processes make it an error."""
    lock = threading.Lock()

    def guarded(number):
        with lock:
            return os.getpid(), time.sleep(0.01)

    here = [(os.getpid(), None)] * 50
    assert process_in_batches(guarded, range(50), max_workers=2) == here
    with pytest.raises(TypeError, match="pickle"):
        process_in_batches(guarded, range(50), isolate=True)


def test_errors_are_dealt_with_as_in_execute():
    """Raised, returned or skipped; what was handed out before stays handed out."""
    handed = []
    with pytest.raises(ZeroDivisionError):
        process_in_batches(lambda number: 1 // number, [1, 1, 0, 1], 2, on_batch=handed.append)
    assert handed == [[1, 1]]
    results = process_in_batches(lambda number: 1 // number, [1, 0, 1], 2, on_error="return")
    assert [results[0], type(results[1]), results[2]] == [1, ZeroDivisionError, 1]
    assert process_in_batches(lambda number: 1 // number, [1, 0, 1], 2, on_error="skip") == [1, 1]


def test_an_endless_source_ends_with_on_batch():
    """What ``on_batch`` raises ends the work."""
    handed = []

    def enough(results):
        handed.extend(results)
        if len(handed) >= 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        process_in_batches(square, itertools.count(), 3, on_batch=enough)
    assert handed == [0, 1, 4, 9, 16, 25]


def test_executor_options_and_threads():
    """Middleware is passed through; threads where they were asked for."""
    assert process_in_batches(square, range(4), 2, retry=RetryPolicy()) == [0, 1, 4, 9]
    assert set(process_in_batches(getpid, range(4), 2, prefer_threads_for_io=True)) == {getpid()}


def test_a_checkpoint_needs_a_fixed_size():
    """A rerun has to make the same batches."""
    with pytest.raises(ValueError, match="batch_size must be given"):
        process_in_batches(square, range(4), checkpoint="work")


def test_verbose_tells_of_each_batch(capsys):
    """On stderr."""
    process_in_batches(square, range(4), 2, verbose=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("Batch ") == 2


def test_estimate_safe_batch_size(memory):
    """At least one, more with more memory, and wrong values are refused."""
    memory(1000)
    assert estimate_safe_batch_size(100) == 5
    assert estimate_safe_batch_size(100, 1.0) == 10
    assert estimate_safe_batch_size(5000) == 1
    assert estimate_safe_batch_size(1e-320) == sys.maxsize
    for arguments in ((0,), (-1,), (math.nan,), ("5",), (True,), (10, 0), (10, 1.5), (10, math.nan)):
        with pytest.raises(ValueError, match="Invalid parameter"):
            estimate_safe_batch_size(*arguments)
