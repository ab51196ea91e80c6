"""Items taken ahead as a sample are neither lost nor doubled."""

import numpy as np
import pytest

from amorsize_executor.advice.supply import Supply, spread


class Reopened:
    """Begins anew with each ``iter``, and has no length; counts how often it was asked."""

    def __init__(self, items):
        self.items, self.asked = items, 0

    def __iter__(self):
        self.asked += 1
        return iter(self.items)


def failing(count):
    """Yield some numbers, then fail."""
    yield from range(count)
    message = "the file ends here"
    raise OSError(message)


@pytest.mark.parametrize(
    "make", [list, tuple, range, set, dict.fromkeys], ids=["list", "tuple", "range", "set", "dict"]
)
def test_containers_come_back_as_they_are(make):
    """What can begin anew is the very object that was given."""
    data = range(20) if make is range else make(range(20))
    supply = Supply(data, 5)
    assert supply.complete() is data
    assert supply.total == 20
    for _ in range(2):
        assert list(supply.without({0, 1})) == [n for n in range(20) if n > 1]


def test_sequences_are_sampled_from_end_to_end():
    """Sorted data gives a sample of small and large items."""
    supply = Supply(list(range(101)), 5)
    assert supply.ahead == [(0, 0), (25, 25), (50, 50), (75, 75), (100, 100)]
    assert list(supply.without({0, 25, 50, 75, 100})) == [n for n in range(101) if n % 25]


@pytest.mark.parametrize("size", range(1, 21))
def test_generators_keep_order_and_count(size):
    """Exactly the sample is pulled, and everything comes."""
    pulled = []
    supply = Supply((pulled.append(n) or n for n in range(100)), size)
    assert pulled == list(range(size))
    assert supply.total is None
    assert list(supply.complete()) == list(range(100))


def test_iterables_without_length_are_asked_once():
    """``iter`` is called once, so a source that begins anew gives no item twice."""
    data = Reopened(range(30))
    supply = Supply(data, 5)
    assert list(supply.complete()) == list(range(30))
    assert data.asked == 1


class Drained:
    """Has a length and a way to iterate, and gives each item once, to whoever iterates it."""

    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __contains__(self, item):
        return item in self.items

    def __iter__(self):
        while self.items:
            yield self.items.pop(0)


def test_a_collection_that_gives_each_item_once_loses_none():
    """Its length and its look of a container do not say that it begins anew."""
    supply = Supply(Drained(range(20)), 5)
    assert supply.total == 20
    assert list(supply.complete()) == list(range(20))
    supply = Supply(Drained(range(20)), 5)
    assert list(supply.without({0, 1, 2, 3, 4})) == list(range(5, 20))


def test_arrays_begin_anew():
    """NumPy's arrays are no sequences to the standard library, and come back as they are."""
    data = np.arange(20)
    supply = Supply(data, 5)
    assert supply.complete() is data
    assert list(supply.without({0, 1, 2, 3, 4})) == list(range(5, 20))


def test_a_source_that_ends_early_has_a_length():
    """A generator shorter than the sample was seen whole."""
    supply = Supply(iter([1, 2]), 5)
    assert supply.total == 2
    assert list(supply.complete()) == [1, 2]


def test_an_error_of_the_source_stays_at_its_place():
    """What came before the error comes, then the error, once."""
    items = iter(Supply(failing(3), 5).complete())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="ends here"):
        next(items)
    assert list(items) == []


def test_an_iterator_that_goes_on_after_an_error_goes_on():
    """An iterator of your own may raise and go on; nothing behind the error is lost."""

    class Hiccup:
        def __init__(self):
            self.numbers, self.failed = iter(range(6)), False

        def __iter__(self):
            return self

        def __next__(self):
            number = next(self.numbers)
            if number == 2:
                raise LookupError
            return number

    items = iter(Supply(Hiccup(), 4).complete())
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(LookupError):
        next(items)
    assert list(items) == [3, 4, 5]


@pytest.mark.parametrize(
    ("total", "most", "expected"),
    [(0, 5, []), (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 1, [0]), (9, 2, [0, 8]), (10, 4, [0, 3, 6, 9])],
)
def test_spread(total, most, expected):
    """Positions go from the first to the last, each once."""
    assert spread(total, most) == expected


def test_a_sequence_that_fails_is_its_own_data():
    """The error is kept, and the data is what it was."""

    class Torn(list):
        def __getitem__(self, index):
            if index:
                raise OSError(index)
            return super().__getitem__(index)

    data = Torn([1, 2, 3])
    supply = Supply(data, 2)
    assert supply.ahead == [(0, 1)]
    assert isinstance(supply.error, OSError)
    assert supply.complete() is data


def test_a_source_that_cannot_be_iterated_fails_where_it_is_used():
    """Not while it is sampled."""

    class Closed:
        def __iter__(self):
            raise LookupError

    supply = Supply(Closed(), 5)
    assert supply.ahead == []
    with pytest.raises(LookupError):
        next(iter(supply.complete()))
