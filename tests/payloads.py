"""What tests ask workers to run: functions and classes that every start method can import."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

WAIT_LIMIT_S = 30.0
POLL_S = 0.001


def identity(value: Any) -> Any:
    """Return what was given."""
    return value


def add(left: Any, right: Any) -> Any:
    """Return ``left + right``."""
    return left + right


def square(value: Any) -> Any:
    """Return ``value * value``."""
    return value * value


@functools.cache
def cached_square(value: Any) -> Any:
    """Return ``value * value``, computed once."""
    return value * value


def getpid(*_ignored: Any) -> int:
    """Return the id of the process that runs the call; takes any arguments, for ``map``."""
    return os.getpid()


def raise_value_error(message: str) -> NoReturn:
    """Raise ``ValueError(message)``."""
    raise ValueError(message)


def raise_system_exit(code: object = 1) -> NoReturn:
    """Raise ``SystemExit(code)``."""
    raise SystemExit(code)


def raise_keyboard_interrupt() -> NoReturn:
    """Raise ``KeyboardInterrupt``, without any signal."""
    raise KeyboardInterrupt


def take_long_number(count: int) -> int:
    """Return a number with 5,000 zeros for each of ``count``."""
    return int(10 ** (5000 * count))


def nap(value: Any) -> Any:
    """Wait 5 ms without a processor, and return ``value``."""
    time.sleep(0.005)
    return value


def sleep_return(seconds: float, value: Any = None) -> Any:
    """Wait without using the CPU, then return ``value``."""
    time.sleep(seconds)
    return value


def spin(microseconds: float) -> int:
    """Keep one core busy for so long, and return how often the clock was read."""
    end_ns = time.perf_counter_ns() + int(microseconds * 1_000)
    reads = 1
    while time.perf_counter_ns() < end_ns:
        reads += 1
    return reads


def big_result(nbytes: int) -> bytes:
    """Return so many bytes; they repeat 0 to 250, so that a displaced part shows."""
    pattern = bytes(range(251))
    return (pattern * (nbytes // len(pattern) + 1))[:nbytes]


def kill_self(sig: int = signal.SIGKILL) -> None:
    """Send a signal to the process that runs the call."""
    os.kill(os.getpid(), sig)


def exit_now(code: int) -> NoReturn:
    """End the process at once, with no clean-up."""
    os._exit(code)


def segfault() -> None:
    """Read address zero."""
    ctypes.string_at(0)


def count_execution(path: str | Path, key: str = "x") -> str:
    """Append one line with ``key`` to a file and return ``key``.

    One write with ``O_APPEND`` is atomic between processes, so the file counts executions and not results.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{key}\n".encode())
    finally:
        os.close(fd)
    return key


def read_executions(path: str | Path) -> list[str]:
    """Return the keys that ``count_execution`` wrote, in the order of the executions; none if there is no file."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def touch_file(path: str | Path) -> None:
    """Create a file, for ``wait_for_file``."""
    Path(path).touch()


def wait_for_file(path: str | Path, value: Any = None) -> Any:
    """Return ``value`` as soon as the file exists; raise ``TimeoutError`` if it never does."""
    target = Path(path)
    end_s = time.monotonic() + WAIT_LIMIT_S
    while not target.exists():
        if time.monotonic() > end_s:
            message = f"{target} did not appear within {WAIT_LIMIT_S} s"
            raise TimeoutError(message)
        time.sleep(POLL_S)
    return value


def start_and_hang(started: Path | None) -> None:
    """Touch a file and go on until the process is killed; with None, return at once."""
    if started is not None:
        started.touch()
        while True:
            time.sleep(60)


@contextlib.contextmanager
def interrupt_when_there(path: Path) -> Iterator[None]:
    """Press Ctrl-C once a file is there."""
    main = threading.main_thread()
    presser = threading.Thread(target=lambda: (wait_for_file(path), signal.pthread_kill(main.ident, signal.SIGINT)))
    presser.start()
    try:
        yield
    finally:
        presser.join()


def unpicklable_result() -> object:
    """Return what pickle refuses."""
    return threading.Lock()


def refuse_to_load() -> NoReturn:
    """Raise ``UnpicklingError``: what ``UnpicklableOnLoad`` does where it is loaded."""
    message = "this object does not unpickle"
    raise pickle.UnpicklingError(message)


class UnpicklableOnLoad:
    """Pickles well and raises ``UnpicklingError`` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


def unloadable_result() -> UnpicklableOnLoad:
    """Return what pickles in the worker and does not unpickle in the parent."""
    return UnpicklableOnLoad()


class ExceptionNeedsTwoArgs(Exception):  # noqa: N818 - not an error of the package
    """An exception whose ``__init__`` does not round-trip: its ``args`` hold one value, and it needs two."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


def raise_exception_needs_two_args() -> NoReturn:
    """Raise an exception that pickles and does not unpickle."""
    raise ExceptionNeedsTwoArgs(1, 2)


def nested_executor(count: int) -> list[int]:
    """Square so many numbers with an executor of the worker's own."""
    from amorsize_executor import AdaptiveExecutor

    with AdaptiveExecutor() as executor:
        return list(executor.map(square, range(count)))


class Nameless:
    """Cannot be told in words."""

    def __str__(self) -> str:
        message = "no words"
        raise RuntimeError(message)

    __repr__ = __str__


class Logged:
    """Returns what it is given, and notes it in a file, one a line."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, value: Any) -> Any:
        """Note and return ``value``."""
        with Path(self.path).open("a", encoding="ascii") as file:
            file.write(f"{value}\n")
        return value


def refuse_odd(value: int) -> int:
    """Return ``value``, or raise ValueError if it is odd."""
    if value % 2:
        raise_value_error(f"{value} is odd")
    return value


def raise_for_text(value: Any) -> Any:
    """Return ``value``, or raise ValueError if it is text."""
    if isinstance(value, str):
        raise_value_error(value)
    return value


def raise_error(error: BaseException) -> NoReturn:
    """Raise ``error``."""
    raise error


class Anything:
    """A class with a method to be named."""

    @staticmethod
    def take(*_args: Any, **_kwargs: Any) -> None:
        """Succeed, whatever is given."""


def repeat_slowly(number: int) -> bytes:
    """Return some thousand bytes that tell the number, after 1 ms of work."""
    spin(1000)
    return b"%d " % number * 1000


class Counted:
    """A callable with state that counts, in each process, how often it is pickled and unpickled there.

    Args:
        nbytes: Of its state.
    """

    pickled = loaded = 0

    def __init__(self, nbytes: int) -> None:
        self.state = bytes(nbytes)

    def __getstate__(self) -> dict[str, Any]:
        Counted.pickled += 1
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        Counted.loaded += 1
        self.__dict__.update(state)

    def __call__(self, _value: Any) -> tuple[int, int]:
        """Return this process's id, and how often any was unpickled in it."""
        return os.getpid(), Counted.loaded


class Comparing(type):
    """A metaclass that says how classes compare, and so takes their hash from them."""

    __hash__ = None  # as it would be anyway

    def __eq__(cls, other):
        return cls is other


class Unhashable(metaclass=Comparing):
    """A class that is no key, and whose instances no pickler of the standard library takes."""

    def __init__(self, number=0):
        self.number = number


def number_of(item):
    """Return the number of an instance."""
    return item.number
