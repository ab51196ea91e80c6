"""The iterators that consumers of a ``map`` or ``imap`` hold: they pull from the source and hand out results."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn

from amorsize_executor.errors import NO_CALLS_OWN
from amorsize_executor.wire.reach import is_exactly
from amorsize_executor.wire.weight import PLAIN

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from typing_extensions import Self

    from amorsize_executor.engine.stream import Stream

_PULL_S = 0.001
_MOST_AT_ONCE = 4096
"""What was pulled from the source is asked for after so long, or so many items."""

_NEVER_WAITING = frozenset(
    map(type, (iter([]), iter(()), iter(range(0)), iter(range(1 << 70)), iter(""), iter(b""), itertools.count()))
)


class Failed:
    """A call's error among values, for which nothing that a call returns can be taken."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class ResultIterator(Iterator[Any]):
    """What ``map``, ``imap`` and ``imap_unordered`` return.

    It goes on after a call's error. Closing it, or dropping it half read, cancels what has not started; what was asked
    for runs where nobody has asked for a result, as in the standard library. Threads may share it: each
    result goes to one of them. A result that is there is taken without a lock; one thread at a time gets more, and
    all that belongs to getting more is guarded by ``_filling``.

    Args:
        stream: Where calls are asked for and outcomes come.
        source: Items not asked for yet, or None where all were.
        executor: What would shut down if it were dropped; held while more may be asked. None where all was.
        window: Most calls that are asked for and not taken; None for as many as keep the workers busy.
        deadline: When waiting ends (monotonic seconds), or None.
        on_error: ``"raise"``, ``"return"`` (the exception as a value) or ``"skip"``.
    """

    _is_done = True  # until it is made, for ``__del__``

    def __init__(
        self,
        stream: Stream,
        source: ItemSource | None,
        *,
        executor: Executor | None = None,
        window: int | None = None,
        deadline: float | None = None,
        on_error: str = "raise",
    ) -> None:
        self._stream = stream
        self._source = source
        self._executor = executor
        self._window = window
        self._deadline = deadline
        self._on_error = on_error
        self._taken = 0
        self._ready: Iterator[Any] = iter(())
        self._held: tuple[list[Any], dict[int, BaseException]] | None = None
        self._filling = threading.Lock()
        self._filler: int | None = None  # the thread that holds it; an interrupt may leave it behind
        self._is_done = False
        self._is_raising = False  # a call's own error, which is no interrupt of ours
        self._error: Exception | None = None  # why nothing more was asked for; raised after the last result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        for value in self._ready:
            return value
        return self._refill()

    def telling(self) -> Self:
        """Give errors as values of the type ``Failed`` from now on: what is raised is no call's own error then."""
        self._on_error = "tell"
        return self

    def prime(self) -> None:
        """Ask for as many calls as the window holds now, instead of at the first ``next``."""
        self._pull(is_ahead=True)

    def close(self) -> None:
        """Cancel what has not started; the iterator is exhausted from now on, for all threads that share it."""
        self._stream.close()
        self._end_if_closed()

    def __del__(self) -> None:
        if self._is_done or self._stream.is_closed:
            return
        if self._taken or not self._stream.engine.is_started:  # what dozes leaves no trace, so nobody can miss it
            self._stream.close(wake=False)
        else:
            self._stream.abandon()

    def _end_if_closed(self) -> None:
        """Let go of the source once nobody iterates it: whoever is filling comes here after it."""
        if self._stream.is_closed and not self._is_done and not self._filling.locked():
            with self._filling:
                try:
                    self._filler = threading.get_ident()
                    self._end()
                finally:
                    self._filler = None

    def _end(self) -> None:
        deque(self._ready, 0)  # an iterator of ``MapIterator`` may be in the middle of it
        self._is_done, self._ready, self._held, self._executor = True, iter(()), None, None
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _refill(self) -> Any:
        """Fill ``_ready`` where it has run out and return a value of it; or raise an error or StopIteration.

        Ctrl-C in here ends the iteration for good: what was on its way could be missing without a word.
        """
        me = threading.get_ident()
        if self._filler == me and self._filling.locked():  # by its source, a helped call or a signal handler
            message = "the iterator is already being asked in this thread"
            raise ValueError(message)
        try:
            with self._filling:
                while True:
                    for value in self._ready:  # another thread may have filled it meanwhile, or emptied it again
                        return value
                    self._fill_as(me)
        finally:
            self._end_if_closed()

    def _fill_as(self, thread: int) -> None:
        try:
            self._filler = thread
            self._fill()
        except KeyboardInterrupt:
            if not self._is_raising:
                self._error = RuntimeError("the iteration was interrupted; start it again")
                self._stream.close()
                self._end()
            raise
        finally:
            self._filler = None
            self._is_raising = False

    def _fill(self) -> None:
        while True:
            if self._stream.is_closed:
                self._end()
            held, self._held = self._held, None
            if held is None:
                if self._is_done:
                    self._stop()
                held = self._next_run()
                if held is None:
                    continue
            values, errors = held
            if not errors:
                self._ready = releasing(values)
                return
            try:
                if self._spread(values, errors):
                    return
            finally:
                del held, values, errors  # an error's traceback holds this frame

    def _stop(self) -> NoReturn:
        """Raise what ended the iteration, once, and StopIteration from then on."""
        error, self._error = self._error, None
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _next_run(self) -> tuple[list[Any], dict[int, BaseException]] | None:
        """Return the next run of outcomes; None at the end."""
        stream = self._stream
        if self._source is not None:
            self._pull()
        if self._taken == stream.asked:
            self._end()
            return None
        try:
            run = stream.engine.helper.run_stream(stream) if self._deadline is None else stream.take(self._deadline)
        except FuturesTimeoutError:
            stream.close()
            self._end()
            raise
        except CancelledError:
            self._end()
            if stream.is_closed:  # by another thread, and not for a shutdown
                return None
            raise
        self._taken += len(run[0])
        return run

    def _spread(self, values: list[Any], errors: dict[int, BaseException]) -> bool:
        """Deal with a run that holds errors, as ``on_error`` says; True where it gave values."""
        if self._on_error == "return":
            self._ready = releasing([errors.get(index, value) for index, value in enumerate(values)])
            return True
        if self._on_error == "tell":
            told = (Failed(errors[index]) if index in errors else value for index, value in enumerate(values))
            self._ready = releasing(list(told))
            return True
        if self._on_error == "skip":
            values, errors = without_failed(values, errors)
            if not errors:
                self._ready = releasing(values)
                return bool(values)
        first = min(errors)
        if first:
            self._held = values[first:], {index - first: error for index, error in errors.items()}
            self._ready = releasing(values[:first])
            return True
        if len(values) > 1:
            self._held = values[1:], {index - 1: error for index, error in errors.items() if index}
        error = errors[0]
        self._is_raising = True
        try:
            if isinstance(error, StopIteration):
                message = "a call raised StopIteration"
                raise RuntimeError(message) from error  # noqa: TRY004 - as a generator does
            raise error
        finally:
            del error, errors, values

    def _pull(self, *, is_ahead: bool = False) -> None:
        """Ask for calls until the window is full, or there is something else to do: to take a result, or to help.

        Nothing else is to be done where nobody waits for a result yet, and the calls are asked for ahead.

        Iterates the source in the consumer's thread.
        """
        stream, source = self._stream, self._source
        if source is None:
            return
        window = self._window or stream.engine.window(stream)
        room = window - (stream.asked - self._taken)
        if room <= 0 or (room < window // 8 and stream.asked - self._taken > window // 2 and not self._window):
            return
        while room > 0:
            step = min(room, _MOST_AT_ONCE)
            items = self._next_items(source, step)
            if items:
                try:
                    stream.ask(items)
                except RuntimeError as refusal:  # the executor was shut down: what was asked for still comes
                    self._source, self._error = None, refusal
                    return
            if len(items) < step and self._source is None:
                if self._error is not None:
                    self._executor = None  # needed no more, and the error's traceback holds this iterator
                return
            room -= len(items)
            if is_ahead:
                continue
            if stream.has_ready() or (self._deadline is None and stream.engine.helper.would_run(stream)):
                return

    def _next_items(self, source: ItemSource, step: int) -> list[Any]:
        """Return up to ``step`` items; fewer where the source is slow or at its end (``_source`` is None then).

        An error of the source waits for the results of what came before it; what is no error goes out at once.
        """
        items: list[Any] = []
        began_s = time.monotonic()
        try:
            if source.never_waits:
                items.extend(itertools.islice(source.items, step))
            else:  # one by one: a quick source may turn slow at any item, and results would wait for the rest
                for item in itertools.islice(source.items, step):
                    items.append(item)
                    if time.monotonic() - began_s > _PULL_S:
                        return items
        except Exception as error:  # noqa: BLE001 - raised after the last result
            self._source, self._error = None, error
            return items
        except BaseException:  # Ctrl-C and the like, which wait for nothing: what was pulled is not lost by it
            self._source = None
            if items:
                self._stream.ask(items)
            raise
        if len(items) < step:
            self._source = None
        return items


def without_failed(values: list[Any], errors: dict[int, BaseException]) -> tuple[list[Any], dict[int, BaseException]]:
    """Leave out the calls that failed; not those whose error is that of the whole run."""
    kept = [
        (value, errors.get(index))
        for index, value in enumerate(values)
        if index not in errors or isinstance(errors[index], NO_CALLS_OWN)
    ]
    return [value for value, _ in kept], {index: error for index, (_, error) in enumerate(kept) if error is not None}


class MapIterator(ResultIterator):
    """What ``map`` returns. ``iter()`` of it is an iterator over the same results, which costs less per item.

    As the standard library's, it ends with the first error; ``next()``, or another ``iter()``, goes on.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # noqa: PYI034
        return itertools.chain.from_iterable(self._runs())

    def _runs(self) -> Iterator[Iterable[Any]]:
        while True:
            yield self._ready
            try:
                first = releasing([self._refill()])
            except StopIteration:
                return
            yield first


def releasing(values: list[Any]) -> Iterator[Any]:
    """Return an iterator over ``values`` that holds none of them once it was yielded; may empty the list.

    Where they begin with a number, they are all kept to the end: that is cheaper, and they are small.
    """
    if values and is_exactly(values[0], PLAIN):
        return iter(values)
    values.reverse()
    return map(values.pop, itertools.repeat(-1, len(values)))


class ItemSource:
    """A map's items.

    Attributes:
        items: The elements of one iterable, or tuples of several.
        never_waits: They are all there, or computed by the iterator itself.
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...]) -> None:
        self._sources = [iter(iterable) for iterable in iterables]
        items = self._sources[0] if len(self._sources) == 1 else zip(*self._sources)
        self.items: Iterator[Any] = iter(items)
        self.never_waits = all(is_exactly(source, _NEVER_WAITING) for source in self._sources)

    def close(self) -> None:
        """Close the generators among the sources; other iterators are their owners' business."""
        for source in self._sources:
            if isinstance(source, GeneratorType):
                source.close()
