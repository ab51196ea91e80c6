"""What a call is known by in another process: a canonical hash of its arguments, and the identity of its function.

Equal arguments have equal hashes in every process: sets and dictionaries are sorted by what they hold, arrays go by
dtype, shape and bytes, other objects by what they would be pickled as. Nothing goes by address, by ``hash()`` or by
order of insertion. Types tell apart what compares equal: ``1``, ``1.0`` and ``True`` are three arguments.
"""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import enum
import functools
import inspect
import os
import struct
import sys
import textwrap
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any

from amorsize_executor.errors import UnstableKeyError

DIGEST_BYTES = 16
_TICK_S = 0.01
_MOST_INNER = 32
_SET_REDUCES = set.__reduce__, frozenset.__reduce__
_WORTH_KNOWING = 8  # objects in an object, from which on its form is kept
_MOST_RETURNS = 20_000  # to objects whose form depends on the way to them
_TANGLED = "a graph of objects with so many ways from one to another"
_LARGE_BYTES = 4096  # hashed where it lies instead of being copied together with the rest


def digest(item: Any, what: str, *, lenient: bool = False, before: bytes = b"") -> bytes:
    """Return the hash of ``item``, of 16 bytes, the same in every process.

    Args:
        item: Anything that is built of builtin types, arrays, functions, and objects that pickle.
        what: What it is, for the error: ``"the arguments"``.
        lenient: Parts without a stable hash count by their type alone; somebody else vouches for them.
        before: What goes into the hash as well.

    Raises:
        UnstableKeyError: A part has no stable hash (a lock, a generator, an open file, a dense graph of objects), and
            ``lenient`` is false.
    """
    encoder = _Encoder(lenient=lenient)
    try:
        encoder.add(item)
    except (_UnstableError, RecursionError) as error:
        kind = "something nested so deeply" if isinstance(error, RecursionError) else str(error)
        if not lenient:
            raise UnstableKeyError(what, kind) from error
        encoder.parts = [b"?", kind.encode()]
    return _hash(before + b"".join(encoder.parts))


def digest_call(args: tuple[Any, ...], kwargs: dict[str, Any], *, lenient: bool, before: bytes) -> bytes:
    """Return the hash of a call's arguments, as ``digest`` does; quicker for the many calls with one scalar."""
    if len(args) == 1 and not kwargs:
        plain = _PLAIN.get(type(args[0]))
        if plain is not None:
            return _hash(before + plain(args[0]))
    return digest((args, kwargs), "the arguments", lenient=lenient, before=before)


def _hash(data: Any) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class FunctionIdentity:
    """Who a function is.

    Attributes:
        name: ``module:qualname``, for people.
        parts: What it is known by, in words, each with a hash in hexadecimal digits.
        digest: The hash of all of them.
    """

    name: str
    parts: dict[str, str]
    digest: bytes

    def difference(self, stored: dict[str, str]) -> str:
        """Say in words what differs from the parts of another identity; empty if nothing does."""
        names = [name for name in {**stored, **self.parts} if stored.get(name) != self.parts.get(name)]
        return " and ".join(names)


def identify(function: Callable[..., Any], *, lenient: bool = False) -> FunctionIdentity:
    """Return the identity of a callable: name, source, defaults and closure; under a partial or method, its state too.

    What the function calls is not covered. The source is the text of its definition; where there is none, or where it
    was changed since this process started, and for lambdas, of which several may share a line, its bytecode.

    Raises:
        UnstableKeyError: Its defaults, closure or state have no stable hash, and ``lenient`` is false.
    """
    parts: dict[str, Any] = {}
    name = _collect_parts(function, parts)
    hashed = {
        part: digest(value, f"{part} of the function {name}", lenient=lenient).hex() for part, value in parts.items()
    }
    return FunctionIdentity(name, hashed, _hash("\0".join(f"{key}={hashed[key]}" for key in sorted(hashed)).encode()))


def identify_definition(function: Callable[..., Any]) -> FunctionIdentity:
    """Return the identity of a callable's definition: name, source, defaults, and the functions that it is made of.

    Data that it closes over or is bound to does not count: it changes from run to run, and may be large. Functions
    among that do, so that what one decorator wraps is told apart.
    """
    parts: dict[str, Any] = {}
    name = _collect_parts(function, parts)
    hashed = _hash_definition(name, parts)
    inner: dict[int, str] = {}
    waiting = _functions_in(parts)
    while waiting and len(inner) < _MOST_INNER:
        held = waiting.pop()
        if held is not function and id(held) not in inner:
            more: dict[str, Any] = {}
            inner[id(held)] = "".join(_hash_definition(_collect_parts(held, more), more).values())
            waiting += _functions_in(more)
    if inner:
        hashed["the functions in it"] = _hash("".join(inner.values()).encode()).hex()
    return FunctionIdentity(name, hashed, _hash("\0".join(f"{key}={hashed[key]}" for key in sorted(hashed)).encode()))


def _hash_definition(name: str, parts: dict[str, Any]) -> dict[str, str]:
    kept = {"the name": name, "the source": parts.get("the source"), "the defaults": parts.get("the defaults")}
    return {part: digest(value, name, lenient=True).hex() for part, value in kept.items()}


def _functions_in(parts: dict[str, Any]) -> list[types.FunctionType]:
    """Return the functions that a callable closes over, or is bound to by ``partial``."""
    closure, bound = parts.get("the closure"), parts.get("the arguments bound by partial")
    held = [] if closure is None else [_content(cell) for cell in closure.function.__closure__ or ()]
    while bound:
        bound, args, keywords = bound
        held += [*args, *keywords.values()]
    return [item for item in held if isinstance(item, types.FunctionType)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _collect_parts(function: Any, parts: dict[str, Any]) -> str:
    """Gather what a callable is known by, under words for people; return its name."""
    if isinstance(function, types.FunctionType):
        name = f"{function.__module__}:{function.__qualname__}"
        parts["the name"] = name
        parts["the source"] = _source(function)
        parts["the defaults"] = (function.__defaults__, function.__kwdefaults__)
        parts["the closure"] = _Closure(function)
        return name
    if isinstance(function, types.MethodType):
        name = _collect_parts(function.__func__, parts)
        parts["the object it is bound to"] = function.__self__
        return name
    if isinstance(function, functools.partial):
        name = _collect_parts(function.func, parts)
        bound = parts.get("the arguments bound by partial")
        parts["the arguments bound by partial"] = (bound, function.args, function.keywords)
        return name
    if isinstance(function, (type, types.BuiltinFunctionType)):
        parts["the name"] = function
        if isinstance(function, type):
            methods = {key: _source(value) for key, value in vars(function).items() if inspect.isfunction(value)}
            parts["the source"] = methods
        return _global_name(function)
    kind = type(function)
    parts["the name"] = kind
    parts["the state"] = function
    wrapped = getattr(function, "__wrapped__", None)
    inner = wrapped or kind.__call__
    if isinstance(inner, types.FunctionType):
        parts["the source"] = _source(inner)
    return _global_name(kind if wrapped is None else wrapped)


def _global_name(item: Any) -> str:
    module = getattr(item, "__module__", None) or builtins.__name__
    return f"{module}:{getattr(item, '__qualname__', None) or getattr(item, '__name__', type(item).__qualname__)}"


# --- source ---


def _source(function: types.FunctionType) -> tuple[str, Any]:
    code = function.__code__
    text = _read_source(code)
    if text is None:
        return "bytecode", _bytecode(code)
    return text, (_bytecode(code) if function.__name__ == "<lambda>" else None)


@functools.lru_cache(maxsize=512)
def _read_source(code: types.CodeType) -> str | None:
    """Return the text of a definition, or None where there is none or where it may have changed under our feet."""
    with contextlib.suppress(OSError):  # a notebook's cells have a path that is no file, and never change
        if os.stat(code.co_filename).st_mtime > _started_at():  # noqa: PTH116 - a name, not a path
            return None
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


@functools.lru_cache(maxsize=1)
def _started_at() -> float:
    """Return when this process could first have read a source file, in seconds since 1970."""
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux, where psutil goes by the boot time in whole seconds
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.time() - age_s + _TICK_S
    import psutil  # noqa: PLC0415 - loaded already, where workers are

    return float(psutil.Process().create_time())


def _bytecode(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(_bytecode(item) if isinstance(item, types.CodeType) else item for item in code.co_consts)
    names = code.co_names, code.co_varnames, code.co_freevars
    return sys.version_info[:2], code.co_flags, code.co_code, constants, names


class _Closure:
    """The variables that a function closes over, by name."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function


# --- the canonical form ---


class _UnstableError(Exception):
    """Something has no stable hash; the text is its type's name."""


class _Encoder:
    """Turns objects into bytes: a letter for the type, a length where the end is not obvious, the content.

    The form of an object that is met again is known, so that shared parts cost once and not once for each way to them.
    But in a cycle an object has another form on each way to it: where the ways are too many, there is no hash.
    """

    __slots__ = ("_cyclic", "_known", "_lenient", "_open", "_outermost", "_returns", "_visits", "parts")

    def __init__(self, *, lenient: bool) -> None:
        self.parts: list[bytes] = []
        self._lenient = lenient
        self._open: dict[int, int] = {}  # ids of the objects around the present one, and how deep they are
        self._outermost = sys.maxsize  # how deep the outermost of them is that a part of the present one refers to
        self._known: dict[int, tuple[Any, bytes]] = {}  # objects (thereby alive) in no cycle, and their forms, by id
        self._cyclic: dict[int, Any] = {}  # objects in a cycle, by id
        self._visits = 0
        self._returns = 0  # to objects in a cycle

    def add(self, item: Any) -> None:
        form = _FORMS.get(type(item))
        if form is not None:
            form(self, item)
            return
        mark = id(item)
        if mark in self._open:  # it holds itself
            self._outermost = min(self._outermost, self._open[mark])
            self.parts.append(b"^%d;" % (len(self._open) - self._open[mark]))
        elif mark in self._known:
            self.parts.append(self._known[mark][1])
        else:
            self.add_composite(item, mark)

    def add_composite(self, item: Any, mark: int) -> None:
        outermost, self._outermost = self._outermost, sys.maxsize
        depth = self._open[mark] = len(self._open)
        self._visits += 1
        visits, parts, self.parts = self._visits, self.parts, []
        (_BUILT.get(type(item)) or _Encoder.add_object)(self, item)
        del self._open[mark]
        form, self.parts = b"".join(self.parts), parts
        if len(form) > _LARGE_BYTES:
            form = b"#" + _hash(form)
        parts.append(form)
        if self._outermost <= depth:
            self.note_cycle(item, mark)
        elif self._visits - visits >= _WORTH_KNOWING:
            self._known[mark] = item, form
        self._outermost = min(self._outermost, outermost)

    def note_cycle(self, item: Any, mark: int) -> None:
        self._returns += mark in self._cyclic
        self._cyclic[mark] = item
        if self._returns > _MOST_RETURNS:
            raise _UnstableError(_TANGLED)

    def apart(self, item: Any) -> bytes:
        """Return the form of a part, to sort by it."""
        parts, self.parts = self.parts, []
        self.add(item)
        form, self.parts = b"".join(self.parts), parts
        return form

    def text(self, tag: bytes, text: str) -> None:
        self.raw(tag, text.encode("utf-8", "surrogatepass"))

    def raw(self, tag: bytes, data: Any) -> None:
        size = memoryview(data).nbytes
        self.parts.append(tag + b"%d:" % size)
        self.parts.append(bytes(data) if size < _LARGE_BYTES else _hash(data))

    def add_sequence(self, item: list[Any] | tuple[Any, ...]) -> None:
        self.parts.append(b"%c%d:" % (108 if type(item) is list else 116, len(item)))
        for part in item:
            self.add(part)

    def add_set(self, item: set[Any] | frozenset[Any]) -> None:
        self.parts.append(b"%c%d:" % (83 if type(item) is set else 90, len(item)))
        self.parts.extend(sorted(map(self.apart, item)))

    def add_dict(self, item: dict[Any, Any]) -> None:
        self.parts.append(b"d%d:" % len(item))
        for key, value in sorted([(self.apart(key), value) for key, value in item.items()], key=lambda pair: pair[0]):
            self.parts.append(key)
            self.add(value)

    def add_function(self, item: types.FunctionType) -> None:
        parts: dict[str, Any] = {}
        self.text(b"p", _collect_parts(item, parts))
        for part in parts.values():
            self.add(part)

    def add_closure(self, item: _Closure) -> None:
        function = item.function
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            self.text(b"c", name)
            try:
                self.add(cell.cell_contents)
            except ValueError:  # not bound yet
                self.parts.append(b"e")

    def add_object(self, item: Any) -> None:
        if isinstance(item, type):
            self.text(b"G", _global_name(item))
        elif isinstance(item, enum.Enum):
            self.text(b"E", _global_name(type(item)))
            self.add(item.value)
        elif isinstance(item, PurePath):
            self.text(b"P", type(item).__name__)
            self.text(b"s", str(item))
        elif not self.add_array(item):
            self.add_reduced(item)

    def add_array(self, item: Any) -> bool:
        """Add a NumPy array or scalar; False if it is none."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not (type(item) is numpy.ndarray or isinstance(item, numpy.generic)):
            return False
        self.text(b"a", f"{item.dtype.descr!r}{item.shape!r}")
        if item.dtype.names is not None:  # what lies between fields is nobody's
            for name in item.dtype.names:
                self.add(item[name])
        elif item.dtype.hasobject:
            self.add(item.tolist())
        else:
            self.raw(b"b", numpy.ascontiguousarray(item).reshape(-1).view(numpy.uint8) if item.size else b"")
        return True

    def add_reduced(self, item: Any) -> None:
        """Add what an object would be pickled as: how it is made, of what, and its state."""
        kind: Any = type(item)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(item) if reduce is not None else item.__reduce_ex__(4)
        except RecursionError:
            raise
        except Exception as error:
            if self._lenient:
                self.text(b"?", _global_name(kind))
                return
            raise _UnstableError(_global_name(kind).replace(":", ".")) from error
        if isinstance(reduced, str):
            self.text(b"G", f"{getattr(item, '__module__', '')}:{reduced}")
            inner = getattr(item, "__wrapped__", None)
            if inner is not None:
                self.add(inner)
            return
        maker, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if reduce is None and kind.__reduce__ in _SET_REDUCES:  # which lists its items in the order of their hashes
            arguments = tuple(map(frozenset, arguments))
        if pairs is not None:
            pairs = dict(pairs) if kind.__eq__ is dict.__eq__ else list(pairs)
        self.text(b"R", _global_name(kind))
        self.text(b"G", _global_name(maker))
        for part in (arguments, state, items and list(items), pairs or None):
            self.add(part)


def _memory(encoder: _Encoder, item: memoryview) -> None:
    encoder.text(b"m", f"{item.format}{item.shape!r}")
    encoder.raw(b"b", item.tobytes())


def _builtin(encoder: _Encoder, item: types.BuiltinFunctionType) -> None:
    encoder.text(b"G", _global_name(item))
    if not isinstance(item.__self__, (types.ModuleType, type(None))):
        encoder.add(item.__self__)


def _method(encoder: _Encoder, item: types.MethodType) -> None:
    encoder.parts.append(b"M")
    encoder.add(item.__func__)
    encoder.add(item.__self__)


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _item: b"N",
    bool: lambda item: b"T" if item else b"F",
    int: lambda item: b"i%x;" % item,
    float: lambda item: b"f" + struct.pack("<d", item),
    str: lambda item: b"u" + item.encode("utf-8", "surrogatepass"),
    bytes: lambda item: b"y" + item,
}
"""What stands alone after a hash of fixed length, and so needs no length of its own."""

_FORMS: dict[type, Callable[[_Encoder, Any], None]] = {
    type(None): lambda encoder, _item: encoder.parts.append(b"N"),
    type(...): lambda encoder, _item: encoder.parts.append(b"."),
    bool: lambda encoder, item: encoder.parts.append(b"T" if item else b"F"),
    int: lambda encoder, item: encoder.parts.append(b"i%x;" % item),
    float: lambda encoder, item: encoder.parts.append(b"f" + struct.pack("<d", item)),
    complex: lambda encoder, item: encoder.parts.append(b"j" + struct.pack("<dd", item.real, item.imag)),
    str: lambda encoder, item: encoder.text(b"s", item),
    bytes: lambda encoder, item: encoder.raw(b"b", item),
    bytearray: lambda encoder, item: encoder.raw(b"B", item),
    memoryview: _memory,
    types.BuiltinFunctionType: _builtin,
    types.ModuleType: lambda encoder, item: encoder.text(b"o", item.__name__),
}
"""Forms of what cannot hold itself."""

_BUILT: dict[type, Callable[[_Encoder, Any], None]] = {
    list: _Encoder.add_sequence,
    tuple: _Encoder.add_sequence,
    set: _Encoder.add_set,
    frozenset: _Encoder.add_set,
    dict: _Encoder.add_dict,
    types.FunctionType: _Encoder.add_function,
    types.MethodType: _method,
    _Closure: _Encoder.add_closure,
}
"""Forms of what is built of parts."""
