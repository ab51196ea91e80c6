"""Of which functions code tells that a call ends soon and leaves nothing behind."""

import functools
import math
import operator

import pytest

from amorsize_executor.wire.traceless import leaves_no_trace

FACTOR, LABELS = 3, ["a"]


def scaled(number):
    """Use a plain global, a builtin and a module of the standard library."""
    return abs(number) * FACTOR + math.sqrt(2) if number > 1 else f"{number:x}".upper()


def with_default(number, step=2):
    """Have a plain default."""
    return number + step


def closing_over(value):
    """Return a function that closes over ``value``."""

    def add(number):
        return number + value

    return add


def counts_up(number):
    """Bind a global."""
    global FACTOR  # noqa: PLW0603
    FACTOR += number


def loops(number):
    """Go round."""
    while number > 1:
        number -= 1
    return number


def prints(number):
    """Be seen."""
    print(number)  # noqa: T201


def reads_a_list(number):
    """Change what others see."""
    LABELS.append(number)


def calls_another(number):
    """Call what may do anything."""
    return scaled(number)


def with_list(number, seen=[]):  # noqa: B006
    """Change its own default."""
    seen.append(number)


def imports(number):
    """Load a module."""
    import json

    return json.dumps(number)


def yields(number):
    """Be a generator."""
    yield number


async def waits(number):
    """Be a coroutine."""
    return number


def catches(number):
    """Catch an exception."""
    try:
        return 1 / number
    except ZeroDivisionError:
        return 0


def reaches_up(number):
    """Reach for what objects hide."""
    return number.__class__.__subclasses__()


class Callable:
    """An object that is called."""

    def __call__(self, number):
        """Return it."""
        return number


@pytest.mark.parametrize(
    "function",
    [scaled, with_default, closing_over(1), lambda x: (x, -x), abs, math.sqrt, operator.neg, str, int, str.upper],
)
def test_traceless(function):
    """Straight lines through plain values, and harmless builtins."""
    assert leaves_no_trace(function)


@pytest.mark.parametrize(
    "function",
    [
        *(counts_up, loops, prints, reads_a_list, calls_another, with_list, imports, yields, waits, catches),
        *(reaches_up, closing_over([]), print, eval, open, iter, next, Callable(), Callable, functools.partial(abs)),
        *(list.append, [].append, dict, type, setattr, math.ceil.__call__, operator.methodcaller("clear")),
    ],
)
def test_anything_else_may_leave_traces(function):
    """What is not sure counts as leaving traces."""
    assert not leaves_no_trace(function)


def test_names_are_looked_up_when_asked(monkeypatch):
    """What a global name means may change."""
    monkeypatch.setitem(globals(), "FACTOR", [3])
    assert not leaves_no_trace(scaled)
