"""Where the executor is used: scripts, ``-c``, pipes, interactive sessions, tqdm, asyncio, exits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.processes import MARK, ROOT, environment, is_gone, marked, poll_until

pytestmark = pytest.mark.timeout(60, method="signal")

LIMIT_S = 40


def run(*arguments: str, stdin: str | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end, with warnings as errors unless the arguments say otherwise."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what was printed, after a look at exit code and standard error."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


MODES = ["", "isolate=True", "backend='process'", "backend='thread'"]

SCRIPT = """
from amorsize_executor import AdaptiveExecutor
factor = 3
def times(n):
    return n * factor
def through(n):
    return times(n) + 1
with AdaptiveExecutor(max_workers=2, {options}) as executor:
    print(list(executor.map(through, range(4))))
    factor = 5
    print(executor.submit(lambda: 1).result())
    print(sum(executor.map(lambda n: n, range(1000))))
"""


WITHOUT_POSIX = """
import concurrent.futures.process, multiprocessing, os, pkgutil, signal, sys
import cloudpickle, loky, psutil, tblib
for name in ("resource", "fcntl"):
    sys.modules[name] = None
for module, name in ((os, "register_at_fork"), (os, "pidfd_open"), (os, "memfd_create"), (signal, "SIGKILL")):
    delattr(module, name)
import amorsize_executor
for module in pkgutil.walk_packages(amorsize_executor.__path__, "amorsize_executor."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(amorsize_executor.optimize(abs, range(9)).n_jobs)
with amorsize_executor.AdaptiveExecutor(backend="thread") as executor:
    print(list(executor.map(abs, range(3))))
"""


def test_what_windows_lacks_is_not_needed_to_load_the_package():
    """Its modules load, and what needs no processes works, without what only POSIX systems have."""
    assert lines_of(run("-c", WITHOUT_POSIX)) == ["1", "[0, 1, 2]"]


# --- Ways to run code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("flags", [(), ("-W", "error"), ("-X", "dev")], ids=["plain", "-W error", "-X dev"])
def test_a_script_without_a_main_guard(options, flags, tmp_path):
    """A plain script runs once, with nothing on standard error, also under ``-W error`` and ``-X dev``."""
    script = tmp_path / "script.py"
    script.write_text("print('once')\n" + SCRIPT.format(options=options))
    assert lines_of(run(*flags, str(script))) == ["once", "[1, 4, 7, 10]", "1", "499500"]


@pytest.mark.parametrize("options", MODES)
def test_dash_c_and_piped_scripts(options):
    """Code given by ``-c`` or on standard input has no file that a worker could import, and needs none."""
    code = SCRIPT.format(options=options)
    expected = ["[1, 4, 7, 10]", "1", "499500"]
    assert lines_of(run("-c", code)) == expected
    assert lines_of(run(stdin=code)) == expected
    assert lines_of(run("-", stdin=code)) == expected


def test_a_script_beside_a_thread(tmp_path):
    """With a thread running, where nothing may be forked, a script needs no guard either."""
    script = tmp_path / "script.py"
    start = "import threading\nstop = threading.Event()\nthreading.Thread(target=stop.wait).start()\nprint('once')\n"
    script.write_text(start + SCRIPT.format(options="isolate=True") + "stop.set()\n")
    assert lines_of(run("-W", "error", str(script))) == ["once", "[1, 4, 7, 10]", "1", "499500"]


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_hash_seeds(seed):
    """Sets and dictionaries of strings mean the same in workers, whatever the hash seed."""
    code = """
        from amorsize_executor import AdaptiveExecutor
        words = frozenset(map(str, range(50)))
        with AdaptiveExecutor(isolate=True) as executor:
            print(all(executor.map(lambda word: word in words, words)))
            print(executor.submit(frozenset, words).result() == words)
    """
    assert lines_of(run("-c", textwrap.dedent(code), PYTHONHASHSEED=seed)) == ["True", "True"]


# --- What is defined in __main__ ------------------------------------------------------------------------------

CLASSES = """
import collections, dataclasses, enum, sys, threading
stop = threading.Event()
if {has_thread}:
    threading.Thread(target=stop.wait).start()
from amorsize_executor import AdaptiveExecutor
{late}
@dataclasses.dataclass
class Point:
    x: int
    def moved(self):
        return Point(self.x + 1)
Pair = collections.namedtuple("Pair", "left right")
class Color(enum.Enum):
    RED = 1
class Problem(Exception):
    def __init__(self, code, *, extra):
        super().__init__(code)
        self.extra = extra
class Outer:
    class Inner:
        value = 5
def move(point):
    assert isinstance(point, Point), type(point)
    return point.moved()
def swap(pair):
    return Pair(pair.right, pair.left)
def same(color):
    assert color is Color.RED
    return color
def fail(code):
    raise Problem(code, extra=[code])
def inner(_):
    return Outer.Inner()
with executor if {is_late} else AdaptiveExecutor(max_workers=2, isolate=True) as executor:
    moved = executor.submit(move, Point(1)).result()
    print(isinstance(moved, Point), moved == Point(2))
    swapped = executor.submit(swap, Pair(1, 2)).result()
    print(isinstance(swapped, Pair), swapped == (2, 1))
    print(executor.submit(same, Color.RED).result() is Color.RED)
    error = executor.submit(fail, 4).exception()
    print(isinstance(error, Problem), error.args, error.extra)
    print(isinstance(executor.submit(inner, 0).result(), Outer.Inner))
    print(list(executor.map(Point.moved, [Point(1), Point(2)])) == [Point(2), Point(3)])
    print(executor.submit(Point(7).moved).result() == Point(8))
    print(executor.submit(Point, 9).result() == Point(9))
stop.set()
"""


@pytest.mark.parametrize("has_thread", [False, True], ids=["forked", "started clean"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after the start"])
def test_classes_of_main_travel_both_ways(has_thread, is_late):
    """Instances of classes of ``__main__`` go and come home as what they are, defined before or after the start."""
    late = "executor = AdaptiveExecutor(max_workers=2, isolate=True); executor.submit(abs, 1).result()" * is_late
    code = CLASSES.format(has_thread=has_thread, late=late, is_late=is_late)
    expected = ["True True", "True True", "True", "True (4,) [4]", "True", "True", "True", "True"]
    assert lines_of(run("-c", code)) == expected


NAMED = """
import abc, dataclasses, enum, functools, sys, threading, typing
stop = threading.Event()
if {has_thread}:
    threading.Thread(target=stop.wait, daemon=True).start()
from amorsize_executor import AdaptiveExecutor
{late}
loads = 0
@functools.lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.cache
def load():
    global loads
    loads += 1
    return loads
def uses(n):
    return fib(n) + load()
@functools.singledispatch
def show(item):
    return "object"
@show.register
def _(item: int):
    return "int"
@show.register(list)
def _(items):
    return [show(item) for item in items]
def shows(item):
    return show(item)
class Missing:
    def __reduce__(self):
        return "MISSING"
MISSING = Missing()
UserId = typing.NewType("UserId", int)
P = typing.ParamSpec("P")
T = typing.TypeVar("T")
def typed(user: UserId, function: typing.Callable[P, T] = None) -> UserId:
    return UserId(user + 1)
def is_missing(item):
    return item is MISSING
def missing(_):
    return MISSING
class Base(abc.ABC):
    @abc.abstractmethod
    def parts(self): ...
class Stack(Base, typing.Generic[T]):
    @functools.cached_property
    def lazy(self):
        return 4
    @functools.cache
    def cached(self):
        return 5
    @functools.singledispatchmethod
    def kind(self, item):
        return "object"
    @kind.register
    def _(self, item: str):
        return "str"
    def parts(self):
        return self.lazy, self.cached(), self.kind("a"), self.kind(1)
class Pair(typing.NamedTuple):
    left: int
    right: str = "x"
class Access(enum.Flag):
    READ = 1
    WRITE = 2
@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    tags: list = dataclasses.field(default_factory=list)
def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper
def helper(n):
    return n
@decorate
def decorated(n):
    return helper(n) + 1
def same(item):
    return item
with executor if {is_late} else AdaptiveExecutor(max_workers=1, isolate=True) as executor:
    def call(*args):
        return executor.submit(*args).result()
    print(call(fib, 50), call(uses, 50), call(functools.partial(uses, 3)), call(lambda: fib(3)))
    print(list(executor.map(show, [1, "a", [1, "b"]])), call(shows, [2]))
    print(call(is_missing, MISSING), call(is_missing, 1), call(missing, 0) is MISSING)
    print(call(typed, 3), call(same, UserId) is UserId, call(same, fib) is fib)
    print(call(Stack().parts), type(call(Stack)) is Stack)
    print([call(same, item) == item for item in (Pair(1), Access.READ | Access.WRITE, Point(1))])
    print(type(call(same, Pair(1))) is Pair, call(same, Access.WRITE) is Access.WRITE)
    print([call(functools.partial(load)) for _ in range(3)])
    print(call(decorated, 1))
    def helper(n):
        return -n
    print(call(decorated, 1))
    @show.register
    def _(item: str):
        return "str"
    print(call(show, "a"), call(shows, ["a"]))
stop.set()
"""
NAMED_PRINTS = """
12586269025 12586269026 3 2
['int', 'object', ['int', 'object']] ['int']
True False True
4 True True
(4, 5, 'str', 'object') True
[True, True, True]
True True
[1, 1, 1]
2
0
str ['str']
"""


@pytest.mark.parametrize("without", ["", "zygote"])
@pytest.mark.parametrize("has_thread", [False, True], ids=["forked", "started clean"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after the start"])
def test_what_pickle_names_works_in_every_worker(has_thread, is_late, without):
    """Caches, dispatchers, sentinels, names of typing and classes of ``__main__`` work, and stay what they are."""
    late = "executor = AdaptiveExecutor(max_workers=1, isolate=True); executor.submit(abs, 1).result()" * is_late
    code = NAMED.format(has_thread=has_thread, late=late, is_late=is_late)
    assert lines_of(run("-c", code, AMORSIZE_WITHOUT=without)) == NAMED_PRINTS.strip().splitlines()


def test_a_class_that_comes_home_is_left_alone():
    """A result's class travels by value with it, and changes nothing in the class it came from."""
    code = """
        import threading
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        from amorsize_executor import AdaptiveExecutor
        factor = 1
        class Item:
            made = []
            def __init__(self, size):
                self.made.append(size)
                self.size = size
            def scaled(self):
                return self.size * factor
        def make(size):
            return Item(size)
        before = Item.scaled, Item.made
        with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
            item = executor.submit(make, 2).result()
        print(type(item) is Item, (Item.scaled, Item.made) == before, Item.made)
        factor = 10
        print(item.scaled(), Item(3).scaled())
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["True True []", "20 30"]


SESSION = """
from amorsize_executor import AdaptiveExecutor
executor = AdaptiveExecutor(max_workers=2, isolate=True)
def f(n):
    return n + 1

print("a", list(executor.map(f, range(3))))
def f(n):
    return n * 10

print("b", list(executor.map(f, range(3))))
class Thing:
    version = 1

def make(_):
    return Thing()

old = executor.submit(make, 0).result()
print("c", isinstance(old, Thing), old.version)
class Thing:
    version = 2

new = executor.submit(make, 0).result()
print("d", isinstance(new, Thing), new.version, isinstance(old, Thing))
def check(thing):
    return isinstance(thing, Thing), thing.version

print("e", executor.submit(check, new).result(), executor.submit(check, Thing()).result())
def helper(n):
    return n

def outer(n):
    return helper(n)

print("f", executor.submit(outer, 4).result())
def helper(n):
    return -n

print("g", executor.submit(outer, 4).result())
import math
print("h", executor.submit(lambda: math.floor(2.5)).result())
number = 1
print("i", executor.submit(lambda: number).result())
number = 2
print("j", executor.submit(lambda: number).result())
executor.shutdown()
"""
EXPECTED = [
    "a [1, 2, 3]",
    "b [0, 10, 20]",
    "c True 1",
    "d True 2 False",
    "e (True, 2) (True, 2)",
    "f 4",
    "g -4",
    "h 2",
    "i 1",
    "j 2",
]


def test_an_interactive_session():
    """In ``python -i``, functions, classes, their helpers and globals that are defined anew run in their new form."""
    done = run("-i", "-q", stdin=SESSION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == EXPECTED
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("has_thread", [False, True], ids=["forked", "started clean"])
def test_a_notebook_like_session(has_thread):
    """Cells that are compiled one by one into ``__main__``, as notebooks do it, see the newest definitions."""
    runner = """
        import ast, sys, threading
        stop = threading.Event()
        if sys.argv[1] == "True":
            threading.Thread(target=stop.wait).start()
        for _index, node in enumerate(ast.parse(sys.stdin.read()).body):
            cell = compile(ast.Module([node], []), f"<ipython-input-{_index}>", "exec")
            exec(cell, sys.modules["__main__"].__dict__)
        stop.set()
    """
    assert lines_of(run("-c", textwrap.dedent(runner), str(has_thread), stdin=SESSION)) == EXPECTED


# --- Globals that calls set -----------------------------------------------------------------------------------

LAZY = """
import concurrent.futures, os, sys, threading
sys.path.insert(0, {root!r})
stop = threading.Event()
if {has_thread}:
    threading.Thread(target=stop.wait, daemon=True).start()
from amorsize_executor import AdaptiveExecutor
from tests.processes import poll_until
lock = owner = None
def use(n):
    global lock, owner
    if lock is None:
        lock, owner = threading.Lock(), os.getpid()
    with lock:
        return owner == os.getpid()
def first_waits(n):
    if n == 0:
        return use(n) and poll_until(lambda: os.path.exists({path!r}), 20)
    open({path!r}, "w").close()
    return use(n)
class Task:
    def run(self):
        return use(0)
def run(task):
    return task.run()
with AdaptiveExecutor(max_workers=2) as executor:
    print(list(executor.map(use, [0])))
    futures = [executor.submit(use, n) for n in range(4)]
    concurrent.futures.wait(futures)
    print([future.result() for future in futures])
    print(all(executor.map(use, range(50))))
for options in ({{}}, {{"isolate": True}}):
    lock = owner = None
    with AdaptiveExecutor(max_workers=2) as executor:
        print(list(executor.map(run, [Task()])))
    with AdaptiveExecutor(max_workers=2, **options) as executor:
        print(all(executor.map(use, range(50))), all(executor.map(run, [Task()] * 5)))
lock = None
with AdaptiveExecutor(max_workers=2) as executor:
    print(list(executor.map(first_waits, range(3), chunksize=1)))
stop.set()
"""


@pytest.mark.parametrize("without", ["", "zygote"])
@pytest.mark.parametrize("has_thread", [False, True], ids=["forked", "started clean"])
def test_a_global_that_calls_make_when_they_need_it(has_thread, without, tmp_path):
    """What a helped call binds stays with the caller: in this map, the next and other executors workers make theirs."""
    code = LAZY.format(has_thread=has_thread, root=ROOT, path=str(tmp_path / "done"))
    four = "[True, True, True, True]"
    expected = ["[True]", four, "True", *["[True]", "True True"] * 2, "[True, True, True]"]
    assert lines_of(run("-c", code, AMORSIZE_WITHOUT=without)) == expected


FORKED = """
import os
from amorsize_executor import AdaptiveExecutor
unused, used = AdaptiveExecutor(2), AdaptiveExecutor(2, isolate=True)
print(sum(unused.map(abs, range(10))), used.submit(abs, -1).result(), flush=True)
pid = os.fork()
if pid == 0:
    with unused:
        print(unused.submit(os.getppid).result() in {os.getpid(), os.getppid()}, sum(unused.map(len, [[1]] * 10)))
    try:
        used.submit(abs, -1)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(unused.submit(abs, -2).result(), used.submit(abs, -2).result())
used.shutdown()
unused.shutdown()
"""


def test_executors_from_before_a_fork():
    """The child may use one that has started nothing; what runs elsewhere it cannot use."""
    refusal = "this executor belongs to the process that this one was forked from; make a new one here"
    assert lines_of(run("-W", "ignore::DeprecationWarning", "-c", FORKED)) == ["45 1", "True 10", refusal, "2 2"]


AT_THE_END = """
import os, signal, threading, time
from amorsize_executor import AdaptiveExecutor
def interrupt():
    while not executor._engine.is_shut_down:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
try:
    with AdaptiveExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 1000) for _ in range(40)]
        threading.Thread(target=interrupt).start()
except KeyboardInterrupt:
    print(all(future.done() for future in futures), executor._processes)
"""


def test_ctrl_c_while_the_end_of_a_with_block_waits():
    """It stops what runs and what waits, as inside the block."""
    assert lines_of(run("-c", AT_THE_END)) == ["True {}"]


DESCRIPTORS = """
import resource, time
from amorsize_executor import AdaptiveExecutor
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
with AdaptiveExecutor() as executor:
    print(list(executor.map(time.sleep, [0.02] * 200)) == [None] * 200)
    print(executor.submit(abs, -1).result())
"""


def test_where_descriptors_run_out():
    """There are as many workers as there is room for, whoever of them the last descriptor was missing for."""
    done = run("-c", DESCRIPTORS)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["True", "1"]), done.stderr
    assert all("no room for more than" in line for line in done.stderr.splitlines()), done.stderr


# --- Initializers ---------------------------------------------------------------------------------------------

INITIALIZER = """
import multiprocessing, sys, threading
stop = threading.Event()
if {has_thread}:
    threading.Thread(target=stop.wait).start()
from amorsize_executor import AdaptiveExecutor
def start(shared_lock, shared_queue, shared_value):
    global lock, queue, value
    lock, queue, value = shared_lock, shared_queue, shared_value
def use(n):
    with lock:
        value.value += n
    queue.put(n)
    return n
parts = multiprocessing.Lock(), multiprocessing.Queue(), multiprocessing.Value("i", 0)
with AdaptiveExecutor(max_workers=2, initializer=start, initargs=parts) as executor:
    print(sum(executor.map(use, range(100))))
print(parts[2].value, sum(parts[1].get(timeout=20) for _ in range(100)))
parts[1].close()
parts[1].join_thread()
stop.set()
"""


@pytest.mark.parametrize("has_thread", [False, True], ids=["forked", "started clean"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_locks_queues_and_values_in_initargs(has_thread, method):
    """An initializer may set globals, and its arguments may hold multiprocessing's locks, queues and values."""
    if has_thread and method == "fork" and sys.version_info >= (3, 12):
        pytest.skip("a fork context's queue can only be inherited, and forking beside threads warns")
    start = f"import multiprocessing; multiprocessing.set_start_method({method!r})\n"
    assert lines_of(run("-c", start + INITIALIZER.format(has_thread=has_thread))) == ["4950", "4950 4950"]


INHERITED = """
import multiprocessing, os
from amorsize_executor import AdaptiveExecutor
queue, simple, (reading, writing), (_, sending) = (
    multiprocessing.Queue(), multiprocessing.SimpleQueue(), os.pipe(), multiprocessing.Pipe()
)
with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
    list(executor.map(lambda n: queue.put(n), range(100)))
    for call in (lambda: simple.put(1), lambda: os.write(writing, b"1"), lambda: sending.send(1)):
        print(executor.submit(call).exception())
print(sum(queue.get(timeout=20) for _ in range(100)))
"""


def test_queues_pipes_and_sockets_that_globals_hold():
    """A queue of multiprocessing works as with a fork; what somebody may wait for the end of is closed, and says so."""
    assert lines_of(run("-c", INHERITED)) == ["[Errno 9] Bad file descriptor"] * 3 + ["4950"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_locks_queues_and_values_without_a_zygote(method):
    """Without a zygote, too, ``initargs`` may hold what the default context made."""
    start = f"import multiprocessing; multiprocessing.set_start_method({method!r})\n"
    code = start + INITIALIZER.format(has_thread=False)
    done = run("-W", "ignore::DeprecationWarning", "-c", code, AMORSIZE_WITHOUT="zygote")
    assert lines_of(done) == ["4950", "4950 4950"]


@pytest.mark.parametrize("without", ["", "zygote"])
def test_a_call_may_start_processes(without):
    """Inside a call, multiprocessing starts processes by the method that it has in the parent."""
    code = """
        import multiprocessing
        from amorsize_executor import AdaptiveExecutor
        def start_one():
            process = multiprocessing.Process(target=abs, args=(1,))
            process.start()
            process.join()
            return process.exitcode, multiprocessing.get_start_method()
        with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
            code, method = executor.submit(start_one).result()
        print(code, method == multiprocessing.get_start_method())
    """
    done = run("-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), AMORSIZE_WITHOUT=without)
    assert lines_of(done) == ["0 True"]


def test_tqdms_pattern():
    """``tqdm.contrib.concurrent`` hands its lock to the workers through an initializer."""
    pytest.importorskip("tqdm")
    code = """
        from tqdm.contrib.concurrent import _executor_map
        from amorsize_executor import AdaptiveExecutor
        def double(n):
            return 2 * n
        print(_executor_map(AdaptiveExecutor, double, range(30), max_workers=2, disable=True) == list(range(0, 60, 2)))
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["True"]


def test_asyncio():
    """``run_in_executor`` awaits results and errors; the event loop goes on meanwhile."""
    code = """
        import asyncio
        from amorsize_executor import AdaptiveExecutor
        def square(n):
            if n == 7:
                raise ValueError(n)
            return n * n
        async def main():
            loop = asyncio.get_running_loop()
            with AdaptiveExecutor(max_workers=2) as executor:
                calls = [loop.run_in_executor(executor, square, n) for n in range(10)]
                results = await asyncio.gather(*calls, return_exceptions=True)
                print([r if isinstance(r, int) else repr(r) for r in results])
        asyncio.run(main())
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["[0, 1, 4, 9, 16, 25, 36, 'ValueError(7)', 64, 81]"]


# --- Interpreters that end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("end", ["", "del executor", "executor.shutdown(wait=False)"], ids=["exit", "drop", "no wait"])
def test_the_interpreter_exits_without_a_shutdown(options, end, tmp_path):
    """At the end of a script the calls that were submitted are finished, and the exit code is 0."""
    code = f"""
        from amorsize_executor import AdaptiveExecutor
        from tests import payloads
        executor = AdaptiveExecutor(max_workers=2, {options})
        for n in range(20):
            executor.submit(payloads.count_execution, {str(tmp_path / "log")!r}, str(n))
        {end}
    """
    mark = os.urandom(8).hex()
    assert lines_of(run("-X", "dev", "-c", textwrap.dedent(code), **{MARK: mark})) == []
    assert sorted((tmp_path / "log").read_text().split(), key=int) == [str(n) for n in range(20)]
    assert poll_until(lambda: not [pid for pid in marked(mark) if not is_gone(pid)], 5)


def test_an_unused_executor_at_exit():
    """An executor that never ran a call does not disturb the interpreter's end."""
    code = "from amorsize_executor import AdaptiveExecutor; executor = AdaptiveExecutor()"
    assert lines_of(run("-X", "dev", "-c", code)) == []


def test_an_error_at_the_end_of_a_script():
    """An uncaught error keeps its exit code, and the calls are finished first."""
    code = """
        from amorsize_executor import AdaptiveExecutor
        executor = AdaptiveExecutor(max_workers=2, isolate=True)
        executor.submit(print, "worked")
        raise SystemExit(5)
    """
    done = run("-c", textwrap.dedent(code))
    assert (done.returncode, done.stdout, done.stderr) == (5, "worked\n", "")


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_missing_main_guard_is_told(method, tmp_path):
    """Where a start method needs a ``__main__`` guard and finds none, three workers die and the error names it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import multiprocessing
            from amorsize_executor import AdaptiveExecutor
            with AdaptiveExecutor(mp_context=multiprocessing.get_context({method!r})) as executor:
                print(executor.submit(abs, -1).result())
        """)
    )
    done = run(str(script))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "BrokenProcessPool: 3 workers in a row died before they were ready" in last
    assert "'if __name__ == \"__main__\":'" in last
    assert done.stderr.count("amorsize_executor: worker ") == 3


def test_a_failing_initializer_is_reported_once():
    """Beside the initializer's own traceback there is no warning of a worker that died: it was told to."""
    code = """
        from amorsize_executor import AdaptiveExecutor
        def fail():
            raise ValueError("no data")
        with AdaptiveExecutor(max_workers=1, initializer=fail) as executor:
            print(type(executor.submit(abs, -1).exception()).__name__)
    """
    done = run("-c", textwrap.dedent(code))
    assert done.stdout == "BrokenProcessPool\n"
    assert done.stderr.count("ValueError: no data") == 1
    assert "exited with status" not in done.stderr


@pytest.mark.parametrize("flush", ["", "def flush(self): raise OSError"], ids=["without flush", "full"])
def test_a_stdout_of_the_programs_own(flush):
    """It needs no more than ``print`` does, and one that cannot be flushed is none of our business."""
    code = f"""
        import sys
        class Tee:
            def write(self, text):
                sys.__stdout__.write(text)
            {flush or "pass"}
        sys.stdout = Tee()
        from amorsize_executor import AdaptiveExecutor
        with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
            print(executor.submit(pow, 2, 2).result())
        sys.stdout = sys.__stdout__
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["4"]


@pytest.mark.parametrize("is_clean", [False, True])
def test_a_program_that_ignores_the_end_of_children(is_clean):
    """Workers that end take nobody with them, and it is known how they ended."""
    code = f"""
        import os, signal, threading, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        from amorsize_executor import AdaptiveExecutor
        if {is_clean}:
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        with AdaptiveExecutor(max_workers=1, max_tasks_per_child=1) as executor:
            print([executor.submit(pow, number, 2).result() for number in range(3)])
            print(executor.submit(os._exit, 3).exception())
            print(executor.stats()["workers_started"])
    """
    done = run("-c", textwrap.dedent(code))
    values, died, started = done.stdout.splitlines()
    assert (values, started) == ("[0, 1, 4]", "5")
    assert "exited with status 3" in died
    assert "zygote" not in done.stderr


@pytest.mark.parametrize("reason", ["ENOSYS", "EPERM"])
def test_a_kernel_that_is_older_than_the_interpreter(reason):
    """What it does not know, or a sandbox does not allow, is done without."""
    code = f"""
        import errno, os
        def refuse(*_args):
            raise OSError(errno.{reason}, "not here")
        os.pidfd_open = os.memfd_create = refuse
        from amorsize_executor import AdaptiveExecutor
        with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
            print(executor.submit(pow, 2, 2).result())
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["4"]


def test_a_program_that_sigpipe_ends():
    """It asked for its end where nobody reads its output, and not where a worker has died."""
    code = """
        import signal, socket
        from amorsize_executor.wire.buffers import send_message
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        theirs.close()
        try:
            send_message(ours, [b"x"])
        except BrokenPipeError:
            print("goes on")
        ours.close()
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["goes on"]


@pytest.mark.parametrize("way", ["fork", "clean", "zygote"])
def test_a_default_timeout_of_sockets(way):
    """A program's ``socket.setdefaulttimeout`` is for its own sockets: workers wait for work as long as it takes."""
    code = """
        import socket, threading, time
        socket.setdefaulttimeout(0.05)
        from amorsize_executor import AdaptiveExecutor
        if {is_clean}:
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        with AdaptiveExecutor(max_workers=1, isolate=True, initializer=len, initargs=(b"x" * {size},)) as executor:
            for number in (1, 2):
                print(executor.submit(pow, number, 2).result())
                time.sleep(0.2)  # longer than the timeout
            print(executor.stats()["workers_started"])
    """
    code = code.format(is_clean=way == "clean", size=1_000_000)
    done = run("-c", textwrap.dedent(code), AMORSIZE_WITHOUT="zygote" if way == "zygote" else "")
    assert lines_of(done) == ["1", "4", "1"]


# --- What is imported and started -----------------------------------------------------------------------------

ELSEWHERE = """
import os, pkgutil, sys
import concurrent.futures.process, loky, psutil, random  # these look after themselves
sys.platform = "win32"
for name in ("register_at_fork", "memfd_create", "eventfd", "pidfd_open", "fork", "sysconf", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp")))
import amorsize_executor
names = [module.name for module in pkgutil.walk_packages(amorsize_executor.__path__, "amorsize_executor.")]
for name in names:
    if not name.endswith(("zygote", "__main__")):
        __import__(name)
print(len(names))
"""


def test_everything_is_imported_where_there_is_no_unix():
    """What only some systems have is asked for where it is used."""
    assert int(lines_of(run("-c", ELSEWHERE))[0]) > 50


HEAVY = ("loky", "dataclasses", "inspect", "cloudpickle", "psutil", "tblib", "numpy", "asyncio", "sqlite3")


def loaded_after(code: str) -> set[str]:
    """Return which of the costly modules are loaded after the code ran."""
    report = f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return set(lines_of(run("-c", textwrap.dedent(code) + report))[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import amorsize_executor",
        "from amorsize_executor import AdaptiveExecutor; AdaptiveExecutor()",
        """
        from amorsize_executor import AdaptiveExecutor
        from tests import payloads
        with AdaptiveExecutor(max_workers=2) as executor:
            list(executor.map(payloads.square, range(100)))
        """,
        """
        from amorsize_executor import AdaptiveExecutor
        from tests import payloads
        with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
            list(executor.map(payloads.square, range(100)))
        """,
    ],
    ids=["import", "constructor", "map", "isolated map"],
)
def test_costly_modules_are_loaded_when_needed(code):
    """Neither the import, nor the constructor, nor calls by name load what they do not need."""
    assert loaded_after(code) == set()


def test_importing_starts_nothing():
    """The import starts no thread and no process, and opens no descriptor."""
    code = """
        import os, threading
        before = sorted(os.listdir("/proc/self/fd"))
        import amorsize_executor
        amorsize_executor.AdaptiveExecutor
        print(threading.active_count(), sorted(os.listdir("/proc/self/fd")) == before)
        print(os.listdir("/proc/self/task") == [str(os.getpid())])
        print(open(f"/proc/self/task/{os.getpid()}/children").read() == "")
    """
    assert lines_of(run("-c", textwrap.dedent(code))) == ["1 True", "True", "True"]


def test_main_functions_survive_the_loss_of_zygote_and_twin():
    """Functions of ``__main__`` that were known by name are still found when the workers are started anew, clean."""
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {ROOT!r})
        from amorsize_executor import AdaptiveExecutor
        from tests.processes import poll_until
        factor = 3
        def call(n):
            return n * factor
        class Item:
            def __init__(self, n):
                self.n = n
        def through(item):
            return Item(call(item.n))
        with AdaptiveExecutor(max_workers=2, isolate=True, worker_death_retries=3) as executor:
            for _ in range(2):
                print(list(executor.map(call, range(4))), executor.submit(through, Item(2)).result().n)
                spawner = executor._engine.backend._spawner
                def has_twin():  # a twin comes with the next worker, and those that there are may outlive the map
                    executor.submit(call, 1).result()
                    return spawner._twin is not None and spawner._twin.pid > 0
                assert poll_until(has_twin, 10)
                os.kill(spawner._twin.pid, signal.SIGKILL)
                os.kill(spawner._zygote.pid, signal.SIGKILL)
            print(list(executor.map(call, range(4))), executor.submit(through, Item(2)).result().n)
    """
    done = run("-c", textwrap.dedent(code))  # what was lost is logged to standard error
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0, 3, 6, 9] 6"] * 3
