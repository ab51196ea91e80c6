"""``AdaptiveExecutor``: a drop-in for ``ProcessPoolExecutor`` that needs no tuning."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from amorsize_executor import events as ev
from amorsize_executor.backends.registry import choose_backend, choose_context, leave_to_worker, stays_in_worker
from amorsize_executor.engine import lifetime
from amorsize_executor.engine.dispatcher import Engine, Settings
from amorsize_executor.engine.future import CallFuture
from amorsize_executor.engine.results import ItemSource, MapIterator, ResultIterator
from amorsize_executor.engine.span import Span
from amorsize_executor.engine.stream import Stream
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, UnsupportedOptionError
from amorsize_executor.observe import report
from amorsize_executor.options import INHERIT, Options, choose_layers
from amorsize_executor.parameters import (
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_seconds,
    check_timeout,
)
from amorsize_executor.records import Decision, Plan, Profile
from amorsize_executor.tuning.machine import probe_machine
from amorsize_executor.tuning.planner import Limits, Tuner, find_most_workers
from amorsize_executor.wire.functions import ONE, STAR

if TYPE_CHECKING:
    from types import TracebackType

    from amorsize_executor.engine.pipeline import Pipeline
    from amorsize_executor.middleware.circuit_breaker import CircuitBreaker, CircuitBreakerPolicy
    from amorsize_executor.middleware.rate_limit import RateLimiter, RateLimitPolicy
    from amorsize_executor.middleware.retry import Retry, RetryPolicy
    from amorsize_executor.recollection import Recollection
    from amorsize_executor.wire.functions import Function

T = TypeVar("T")


class CallingExecutor(Executor):
    """The ways to run calls: what an executor and its views have in common."""

    _home: AdaptiveExecutor
    _options: Options

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)``.

        Never blocks on workers. A callable with state is pickled now, so that later changes do not reach it.

        Returns:
            A future, PENDING until the call travels.

        Raises:
            RuntimeError: After ``shutdown``, at interpreter exit, or in a child of a user's own fork.
            BrokenProcessPool: The executor is broken.
        """
        options, home = self._options, self._home
        engine = home._accepting()  # noqa: SLF001
        check_callable("fn", fn)
        engine.start(fn)
        try:
            function = engine.functions.register(fn, snapshot=not engine.backend.capabilities.shares_memory)
        except Exception as error:  # noqa: BLE001 - as in the standard library, what does not pickle fails its future
            failed: Future[T] = Future()
            failed.set_running_or_notify_cancel()
            failed.set_exception(error)
            return failed
        if home._recollection is not None:  # noqa: SLF001
            home._recollection.meet(function, 3)  # noqa: SLF001
        future = CallFuture(engine, function, options.priority)
        if function.is_guarded or not options.is_plain:
            future.key = options.key
            future.pipeline = self._pipeline_of(engine, function, 3)
        span = Span(future, 0, [(args, kwargs)])
        future._span = span  # noqa: SLF001
        try:
            engine.enqueue(span)
        except BrokenProcessPool as error:  # by a worker that failed to start meanwhile
            future.set_running_or_notify_cancel()
            future.set_exception(error)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` with the items of the iterables, in parallel; yield the results in the order of the items.

        The iterables are collected at once, unless ``buffersize`` is given.

        Args:
            fn: Takes as many arguments as there are iterables.
            iterables: The shortest one ends the map.
            timeout: Seconds from now within which each result must be there when asked for; None for any time.
            chunksize: Calls that travel together, >= 1; None for the executor's choice.
            buffersize: Most results that are asked for and not yet yielded, >= 1; None for all.

        Returns:
            An iterator; after a call's error it can be asked on. Dropping it half read cancels what has not started.

        Raises:
            TimeoutError: From the iterator, if a result is not there in time.
        """
        check_map(fn, chunksize, buffersize)
        check_timeout("timeout", timeout)
        if timeout is not None and timeout > threading.TIMEOUT_MAX:  # no lock waits so long
            timeout = None
        deadline = None if timeout is None else time.monotonic() + max(0, timeout)
        if buffersize is not None:
            stream = self._stream(fn, iterables, chunksize, may_doze=deadline is None)
            source = ItemSource(iterables)
            results = ResultIterator(stream, source, executor=self, window=buffersize, deadline=deadline)
            results.prime()
            return results
        items = collect(iterables)
        stream = self._stream(fn, iterables, chunksize, is_lazy=False, may_doze=deadline is None)
        if items:
            stream.ask(items)
        return MapIterator(stream, None, deadline=deadline)

    def imap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        on_error: str = "raise",
    ) -> Iterator[T]:
        """Like ``map``, but lazy: pull items as results are taken; works on infinite iterables.

        The iterables are iterated in the consumer's thread, inside ``next``.

        Args:
            fn: Takes as many arguments as there are iterables.
            iterables: The shortest one ends the map.
            buffersize: Most calls asked for and not yet taken, >= 1; None for enough to keep the workers busy.
            chunksize: Calls that travel together, >= 1; None for the executor's choice.
            on_error: ``"raise"`` a call's error and go on after it, ``"return"`` it as a value, or ``"skip"`` it; not
                that of a whole run, such as ``CheckpointMismatchError``.

        Returns:
            An iterator with ``close()``, which stops everything that has not started; threads may share it.

        Raises:
            RuntimeError: From the iterator, if it needs to ask for more calls after ``shutdown``.
        """
        check_map(fn, chunksize, buffersize, on_error)
        stream = self._stream(fn, iterables, chunksize)
        return ResultIterator(stream, ItemSource(iterables), executor=self, window=buffersize, on_error=on_error)

    def imap_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        on_error: str = "raise",
    ) -> Iterator[T]:
        """Like ``imap``, but yield results as they come."""
        check_map(fn, chunksize, buffersize, on_error)
        stream = self._stream(fn, iterables, chunksize, is_ordered=False)
        return ResultIterator(stream, ItemSource(iterables), executor=self, window=buffersize, on_error=on_error)

    def _stream(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | None,
        *,
        is_ordered: bool = True,
        is_lazy: bool = True,
        may_doze: bool = True,
    ) -> Stream:
        """Return the stream of one more map."""
        home, options = self._home, self._options
        engine = home._accepting()  # noqa: SLF001
        function = engine.functions.register(fn, snapshot=False)
        if not (may_doze and options.is_plain and engine.may_doze(function)):
            engine.start(fn)
        if home._recollection is not None:  # noqa: SLF001
            home._recollection.meet(function, 4)  # noqa: SLF001
        stream = Stream(
            engine,
            function,
            ONE if len(iterables) == 1 else STAR,
            options.priority,
            is_ordered=is_ordered,
            chunksize=chunksize,
        )
        stream.is_lazy = is_lazy
        stream.key, stream.ordinal = options.key, next(home._maps)  # noqa: SLF001
        stream.pipeline = self._pipeline_of(engine, function, 4)
        return stream

    def _pipeline_of(self, engine: Engine, function: Function, stacklevel: int) -> Pipeline | None:
        """Return the layers that calls of a function pass, open; None for none."""
        pipeline = self._options.pipeline_for(function, engine.backend, stacklevel + 1)
        if pipeline is not None and not pipeline.is_open:
            engine.open(pipeline)
        return pipeline

    def options(
        self,
        *,
        priority: int = INHERIT,
        retry: RetryPolicy | Retry | None = INHERIT,
        circuit_breaker: CircuitBreakerPolicy | CircuitBreaker | None = INHERIT,
        rate_limit: RateLimitPolicy | RateLimiter | None = INHERIT,
        timeout: float | None = INHERIT,
        checkpoint: Any = INHERIT,
        dead_letters: Any = INHERIT,
        key: Any = INHERIT,
    ) -> ExecutorView:
        """Return a view of this executor whose calls carry these options; what is not given stays as it is.

        An option beats what a decorated function brings along, and that beats the executor's own; they never add up.
        Calls through views that were given one policy share its state within each view; give them one object
        (a ``CircuitBreaker``, a ``RateLimiter``, a ``Retry``) to share it between views.

        Args:
            priority: Calls with a higher one run earlier; first come, first served among equals.
            retry: As for the executor; None for no retry.
            circuit_breaker: As for the executor; None for none.
            rate_limit: As for the executor; None for none.
            timeout: Seconds that a call may run, > 0; None for any time.
            checkpoint: As for the executor; None for none.
            dead_letters: As for the executor; None for none.
            key: Names a call or a map, for the checkpoint; None for nothing.

        Raises:
            ValueError: An option is out of its range, or the backend cannot serve it.
            TypeError: An option has the wrong type.
        """
        places = {
            "retry": retry,
            "circuit_breaker": circuit_breaker,
            "rate_limit": rate_limit,
            "timeout": timeout,
            "checkpoint": checkpoint,
            "dead_letters": dead_letters,
        }
        backend = self._home._engine.backend  # noqa: SLF001
        return ExecutorView(self._home, self._options.but_with(priority, key, places, backend))


class AdaptiveExecutor(CallingExecutor):
    """Run calls where they run fastest: here, in threads, in processes, in chunks of the right size.

    Args:
        max_workers: Most workers, >= 1; None for as many as the work is worth.
        mp_context: A multiprocessing context that starts the workers, honoured as it is; None for the fastest
            safe way on this system, which needs no ``__main__`` guard.
        initializer: Called in each worker before its first call. If it raises, the executor is broken.
        initargs: Its arguments; they may hold multiprocessing locks and queues.
        max_tasks_per_child: Calls after which a worker process is replaced, >= 1; None for never.
        backend: ``"auto"``, ``"process"``, ``"thread"``, ``"caller"``, or a ``concurrent.futures.Executor`` that
            runs the calls (it is not shut down with this one).
        isolate: True if nothing may run in the calling thread: calls may crash the interpreter or change it.
        min_workers: Workers that are started at least once there is work for workers, >= 1.
        chunksize: Calls that travel together, >= 1; None for the tuner's choice.
        target_chunk_duration: Seconds of work that a chunk aims at, > 0.
        max_memory: Bytes that all workers together may use; None for 80 % of what is available.
        on_worker_death: ``"retry"``: a call whose worker died runs again, alone; ``"fail"``: it fails at once;
            ``"break"``: all calls fail and the executor is broken, as ``ProcessPoolExecutor`` does it.
        worker_death_retries: How often such a call runs again, >= 0.
        retry: When failed calls run again: a ``RetryPolicy`` or ``Retry``; None for never.
        circuit_breaker: When calls are not made: a ``CircuitBreakerPolicy`` or ``CircuitBreaker``; None for none.
        rate_limit: How many calls may begin: a ``RateLimitPolicy`` or ``RateLimiter``; None for any number.
        timeout: Seconds that a call may run, > 0, from its start in the worker; its worker is stopped then, and it
            fails with ``CallTimeoutError``. None for any time.
        checkpoint: Where results are kept, so that a rerun does not repeat their calls; None for nowhere.
        dead_letters: Where calls are kept that have failed for good; None for nowhere.
        middleware: Policies and layers around every call in an order of your own, outermost first, instead of the
            six above; None for their canonical order, which is the one in which they stand here but for checkpoint
            and dead letters, which are outermost.
        config: A saved plan to begin with, a ``ConfigData`` or the path of a file, or a list of such for several
            functions; the executor goes on adapting. None for no plan.
        memory: Path of a file in which is kept what was learned of each function, so that the next run begins with
            it; made at the first call, written when the executor ends. None for no memory.

    Raises:
        ValueError: A parameter is out of its range; the message names it and its value.
        TypeError: A parameter has the wrong type.
        FileNotFoundError: There is no such config.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        backend: str | Executor = "auto",
        isolate: bool = False,
        min_workers: int = 1,
        chunksize: int | None = None,
        target_chunk_duration: float = 0.2,
        max_memory: int | None = None,
        on_worker_death: str = "retry",
        worker_death_retries: int = 1,
        retry: RetryPolicy | Retry | None = None,
        circuit_breaker: CircuitBreakerPolicy | CircuitBreaker | None = None,
        rate_limit: RateLimitPolicy | RateLimiter | None = None,
        timeout: float | None = None,
        checkpoint: Any = None,
        dead_letters: Any = None,
        middleware: Iterable[Any] | None = None,
        config: Any = None,
        memory: str | os.PathLike[str] | None = None,
    ) -> None:
        check_count("max_workers", max_workers)
        check_callable("initializer", initializer, optional=True)
        check_context(mp_context)
        if not isinstance(initargs, (tuple, list)):
            raise InvalidParameterTypeError("initargs", initargs, "must be a tuple of arguments")
        check_count("max_tasks_per_child", max_tasks_per_child)
        check_flag("isolate", isolate)
        check_count("min_workers", min_workers, optional=False)
        check_count("chunksize", chunksize)
        check_seconds("target_chunk_duration", target_chunk_duration, most=3600)
        check_count("max_memory", max_memory)
        check_choice("on_worker_death", on_worker_death, ("retry", "fail", "break"))
        check_count("worker_death_retries", worker_death_retries, least=0, optional=False)
        if stays_in_worker(backend, mp_context):  # library code that asks for processes has to work there too
            leave_to_worker(
                isolate=isolate,
                max_tasks_per_child=max_tasks_per_child is not None,
                on_worker_death=on_worker_death != "retry",
            )
            isolate, max_tasks_per_child, on_worker_death = False, None, "retry"
        mp_context = choose_context(backend, mp_context, initializer, tuple(initargs))
        chosen = choose_backend(backend, mp_context, initializer, tuple(initargs))
        abilities = chosen.capabilities
        require(abilities.isolates or not isolate, "isolate=True", chosen.name, "runs calls in processes")
        require(
            abilities.can_recycle or max_tasks_per_child is None, "max_tasks_per_child", chosen.name, "replaces workers"
        )
        require(
            abilities.can_kill or on_worker_death == "retry",
            f"on_worker_death={on_worker_death!r}",
            chosen.name,
            "sees its workers die",
        )
        probe = functools.cache(probe_machine)  # takes as long as a hundred cheap calls, so only when it is needed
        most = getattr(chosen, "most_workers", None)
        if most is not None:
            max_workers = min(max_workers or most, most)
        if min_workers > 1:
            check_least(min_workers, max_workers, probe().cores)
        self._most = max_workers
        self._own_context = mp_context
        self._recycles = max_tasks_per_child is not None
        forks = is_forking(mp_context)
        if forks and max_tasks_per_child is not None:
            message = "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            raise ValueError(message + "supply a different mp_context")
        all_at_once = (max_workers or probe().cores) if forks else 0
        limits = Limits(
            min_workers=all_at_once or min_workers,
            max_workers=all_at_once or max_workers,
            chunksize=chunksize,
            target_chunk_duration=target_chunk_duration,
            max_memory=max_memory,
        )
        places = {
            "retry": retry,
            "circuit_breaker": circuit_breaker,
            "rate_limit": rate_limit,
            "timeout": timeout,
            "checkpoint": checkpoint,
            "dead_letters": dead_letters,
        }
        layers = choose_layers(middleware, places, chosen)
        settings = Settings(
            may_help=not (
                layers or isolate or initializer or mp_context or max_tasks_per_child or isinstance(backend, Executor)
            ),
            max_tasks_per_child=max_tasks_per_child,
            on_worker_death=on_worker_death,
            worker_death_retries=worker_death_retries,
            # Threads cannot be started while an interpreter exits, nor processes of some contexts.
            prestart=all_at_once or int(mp_context is not None or abilities.shares_memory),
        )
        tuner = Tuner(probe, limits, lane=chosen.lane, caller_helps=settings.may_help)
        self._engine = Engine(chosen, tuner, settings, ev.log)
        self._maps = itertools.count()
        self._recollection: Recollection | None = None
        if config is not None or memory is not None:
            from amorsize_executor import recollection  # noqa: PLC0415 - most executors begin with nothing

            self._recollection = recollection.make(config, memory, self._engine)
        self._options = Options(layers=layers)
        lifetime.enroll(self, self._engine)

    @property
    def _home(self) -> AdaptiveExecutor:  # type: ignore[override]
        return self

    # --- ends ---

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Accept no more calls, and let go of all processes, threads and descriptors once the rest is done.

        Args:
            wait: Block until then.
            cancel_futures: Cancel what has not begun to travel.
        """
        engine = self._engine
        if not lifetime.is_ours(engine):
            return
        thread = engine.thread
        engine.shut_down(cancel=cancel_futures)
        if wait and thread is not threading.current_thread():  # a callback must not wait for itself
            engine.ended.wait()
            if thread is not None:
                thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Shut down; after Ctrl-C without finishing what is queued or runs."""
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self.kill_workers()
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self.kill_workers()
            self.shutdown(wait=True)
            raise
        return None

    def __reduce__(self) -> NoReturn:
        message = "an executor cannot be pickled: make another one where the call runs"
        raise TypeError(message)

    def terminate_workers(self) -> None:
        """End all workers now, cancel what waits, and shut down without waiting."""
        self.kill_workers()

    def kill_workers(self) -> None:
        """End all workers now, cancel what waits, and shut down without waiting."""
        engine = self._engine
        if engine.is_started and not engine.has_ended:
            engine.kill_workers("A worker process was killed on request")
        self.shutdown(wait=False, cancel_futures=True)

    def _accepting(self) -> Engine:
        """Return the engine if it takes calls, with the standard library's errors if not."""
        engine = self._engine
        if engine.broken is not None:
            raise BrokenProcessPool(engine.broken)
        if engine.is_shut_down:
            message = "cannot schedule new futures after shutdown"
            raise RuntimeError(message)
        lifetime.require_alive(engine)
        return engine

    # --- what it is doing ---

    @property
    def plan(self) -> Plan:
        """What the executor is doing at the moment, and why."""
        return report.plan(self._engine)

    def stats(self) -> dict[str, Any]:
        """Return counts and measurements so far, as plain numbers and strings."""
        return report.stats(self._engine)

    def report(self, format: str = "text") -> str:  # noqa: A002 - the name that callers know
        """Return a page: what ran where, how long it took, and what was decided.

        Args:
            format: ``"text"``, 79 columns wide, with the last ten functions and decisions; or all of them in full
                as ``"json"``, ``"markdown"`` (tables) or ``"html"`` (a page that stands alone).

        Raises:
            InvalidParameterError: There is no such format.
        """
        check_choice("format", format, ("text", "json", "markdown", "html"))
        return report.render_as(format, report.stats(self._engine), self.decisions())

    def profiles(self) -> list[Profile]:
        """Return what was measured of each function, the last measured at the end; at most 256."""
        return report.profiles(self._engine)

    def decisions(self) -> list[Decision]:
        """Return the last changes of plan, oldest first, with their reasons."""
        return list(self._engine.tuner.decisions)

    def __repr__(self) -> str:
        return report.one_line(self._engine)

    # --- what tools read of ProcessPoolExecutor ---

    @property
    def _max_workers(self) -> int:
        return self._most or self._engine.tuner.machine.cores

    @property
    def _processes(self) -> dict[int, Any]:
        return self._engine.processes()

    @property
    def _mp_context(self) -> Any:
        """What ProcessPoolExecutor would have used; ``max_tasks_per_child`` rules fork out there."""
        return self._own_context or multiprocessing.get_context("spawn" if self._recycles else None)

    @property
    def _broken(self) -> str | bool:
        return self._engine.broken or False

    @property
    def _executor_manager_thread(self) -> Any:
        if self._engine.calls_waiting():
            self._engine.rouse()  # who looks for the thread expects it to be there once there are calls
        return self._engine.thread


class ExecutorView(CallingExecutor):
    """An executor whose calls carry options; all else is the executor's it was made from."""

    def __init__(self, home: AdaptiveExecutor, options: Options) -> None:
        self._home = home
        self._options = options

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Shut down the executor that this is a view of."""
        self._home.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<view with {self._options!r} of {self._home!r}>"


def collect(iterables: tuple[Iterable[Any], ...]) -> list[Any]:
    """Return a map's items: the elements of one iterable, or tuples of several."""
    return list(iterables[0]) if len(iterables) == 1 else list(zip(*iterables))


def check_map(fn: object, chunksize: int | None, buffersize: int | None, on_error: str = "raise") -> None:
    """Raise for wrong arguments of a map, before anything starts."""
    check_callable("fn", fn)
    check_count("chunksize", chunksize)
    check_count("buffersize", buffersize)
    check_choice("on_error", on_error, ("raise", "return", "skip"))


def check_context(mp_context: Any) -> None:
    """Raise TypeError for what is no multiprocessing context, such as the name of one."""
    if mp_context is not None and not hasattr(mp_context, "get_start_method"):
        rule = "must be a context as multiprocessing.get_context() returns it, or None"
        raise InvalidParameterTypeError("mp_context", mp_context, rule)


def check_least(min_workers: int, max_workers: int | None, cores: int) -> None:
    """Raise if there can never be as many workers as ``min_workers``."""
    most = find_most_workers(max_workers, cores)
    if min_workers > most:
        name = f"max_workers={most}" if most == max_workers else f"{most}, the most workers that there can be here"
        raise InvalidParameterError("min_workers", min_workers, f"must not be above {name}")


def require(condition: bool, option: str, backend: str, capability: str) -> None:  # noqa: FBT001
    """Raise unless the backend can do what an option needs."""
    if not condition:
        raise UnsupportedOptionError(option, backend, capability)


def is_forking(mp_context: Any) -> bool:
    """Tell whether a context forks this very process: then all workers start before any thread of ours exists."""
    return mp_context is not None and mp_context.get_start_method(allow_none=False) == "fork"
